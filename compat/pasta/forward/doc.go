// Package forward holds the forwarding rules of pasta and pesto: their grammar on the command line, the table
// they go into, and how they are shown.
//
// # Theory of operation
//
// A Rule covers a range of ports of one transport that is listened to on one address, and leads to a range of
// equal length. What a user writes is turned into rules by Table.Parse (spec.go), by the grammar of passt's
// fwd_rule.c as of July 2026:
//
//	SPEC  = "none" | [ADDR] ["%" IFACE] "/" PORTS | PORTS
//	PORTS = CHUNK *("," CHUNK)
//	CHUNK = "auto" | "all" [":" TO] | "~" RANGE | RANGE [":" (TO "/" RANGE | TO | RANGE)]
//	RANGE = PORT ["-" PORT]
//	ADDR  = IPv4 | IPv6 | "[" IPv6 "]" | "*"
//	TO    = IPv4 | IPv6 | "[" IPv6 "]"
//
// Exclusions (~) hold for the whole of PORTS, wherever they stand. PORTS with no RANGE means every port that is
// not ephemeral on this host; such rules are Weak, because other programs hold some of them. "auto" makes the
// rules of its PORTS follow who listens on the other side (Scan).
//
// A Table refuses what cannot be, with the texts of the original. Each change is made as a whole or not at all.
package forward

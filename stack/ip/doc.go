// Package ip reads and writes IP packets at the edge between the switch and the NAT.
//
// Everything a container sends to the gateway comes through Parse, which believes nothing: what it
// returns drop.None for has lengths that hold, a checked header and a bounded chain of extension
// headers. Fragments go on to a Reassembler; the rest of the datapath sees whole packets only.
// What the NAT and the port forwarder send back is built here too, and leaves through an Emitter.
//
// # The way of a packet
//
//	l2.Frame ─Parse─► Packet ─Reassembler.Add─► whole Packet ─VerifyTransport─► nat, portfwd, gateway
//	PutUDPHeaders, EchoReply, ICMPError ─► Emitter.EmitIP ─Fragment─► l2.Frame
//
// # Ownership
//
// A Packet borrows the frame it was parsed from and is valid as long as that is: until the call
// that brought the frame returns. A Packet made by a Reassembler is owned by whoever got it, until
// Reassembler.Release. A Packet is meant to be kept and parsed into again; then nothing allocates.
//
// # Standards
//
// RFC 791, 1122 §3.2, 1812 §4.3, 1071 and 1624 (IPv4, ICMP, checksum); RFC 8200, 4443, 5095, 5722,
// 6946, 7112 (IPv6); RFC 768, 9293 (lengths of UDP and TCP); RFC 5508 (what a NAT reads in an ICMP
// error); RFC 6864 (the identification field).
//
// The package imports the nouns of the link layer and the drop reasons, and nothing else of the datapath.
package ip

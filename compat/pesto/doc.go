// Package pesto changes the forwarding rules of a running pasta: the protocol of its configuration socket, and
// the program called pesto that speaks it.
//
// # The protocol
//
// Version 2, as in passt's pesto.h and fwd_rule.h of July 2026. Both ends are on one host, and numbers are in network
// order. The server speaks first:
//
//	hello      magic "basil:s\0", u32 version, u32 128, u32 16
//	interface  u8 id, name[128], u32 capabilities, u32 count, count rules   (for each)
//	           u8 0
//
// The client hangs up, or answers with the whole of what is to be, for any of the interfaces:
//
//	interface  u8 id, u32 count, count rules
//	           u8 0
//
// A rule is { addr[16], to[16], interface[16], u16 first, u16 last, u16 to, u8 protocol, u8 flags }, 56 bytes;
// IPv4 addresses are mapped into IPv6, and all zeroes in to means none.
//
// The protocol has no answer: the original's server hangs up whatever it made of the rules. Ours does too, after it
// has sent the reason as text if it refused them, and no sooner than they hold. Our client waits for that;
// the original's does not look.
//
// # Hostile input
//
// Every length is bounded before anything is allocated: 3 interfaces, 256 rules each, so that a reader holds at
// most 42 KiB. Whatever the server reads goes through forward.Table, which refuses what cannot be.
package pesto

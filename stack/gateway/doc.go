// Package gateway is the router of a Network: the bridge port behind which the outside lies.
//
// # Theory of operation
//
// A frame for the gateway arrives in Output, on the goroutine of the TAP reader that read it.
//
//  1. ARP and neighbour discovery for our own addresses are answered (linkaddr.go).
//  2. IP packets are validated (ip.Parse), their sender's MAC is remembered, and fragments are put
//     together under a quota of each sender's own (ip.Reassembler).
//  3. A packet that only passes through with TTL 1 is answered with Time Exceeded.
//  4. The transport decides:
//     TCP goes to netstack, which terminates it; a SYN that matches no connection reaches
//     handleSYN, which asks the policy, dials the host, and only then answers the SYN.
//     UDP never sees netstack: published-port replies, DNS, DHCP, then nat.UDP.
//     ICMP echo to our addresses is answered by netstack; any other goes to nat.Ping.
//
// Netstack is made when the first packet is for it (netstack.go): a Network without TCP never has one.
//
// What comes back is either netstack's (linkEndpoint.WritePackets) or a complete IP packet of ours
// (EmitIP); both become frames and enter the bridge through the port's own Input.
//
// # Relay
//
// The flows of a gateway share two goroutines (carrier_linux.go, relay.go). Towards the host the payload is written to the socket
// straight from netstack's segments, by sendmsg, without holding the endpoint's lock; towards the
// container netstack reads straight from the socket into the memory of the segment it will send.
// Each byte is copied twice by the kernel on each side and never by us.
//
// # Memory
//
// A TSO frame fills most of a 64 KiB block, so its block is handed to netstack as it is (Alloc,
// l2.Buf). A small frame is copied into a block of its size: a 1-byte segment that waits in a
// receive queue must not hold 64 KiB. Buffers of flows share a budget (bufferSize).
//
// # Concurrency
//
// Output, EmitIP and WritePackets are called by many goroutines. No lock of ours is held across a
// call into the bridge, netstack or the kernel. Goroutines: one per SYN until it is answered, of which a few stay for the next
// (attempt.go), two or more of each carrier, one for each of the name server's TCP listeners; Close aborts and waits for all of them.
//
// # Standards
//
// RFC 5382 (TCP NAT behaviour), RFC 1812 §5.3.1 (TTL), RFC 792, RFC 4443, RFC 826, RFC 4861.
package gateway

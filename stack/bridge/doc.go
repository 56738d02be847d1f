// Package bridge is the L2 switch of one Network: its containers' TAPs, its gateway and later its
// VTEPs are ports of one Bridge.
//
// # Theory of operation
//
// Whoever reads a port (a TAP's reader, the gateway's sender) calls Port.Input with a batch of frames.
// All that follows happens on that goroutine; the switch has no goroutine, no queue and no timer
// of its own. For each frame, in this order:
//
//  1. Validate. IPv4, ARP and IPv6 only; the source is the address of a single station; the VNet header
//     does not contradict the frame (vnet.go). Nobody behind the switch needs to doubt these again.
//  2. Guard. Nothing leaves a port under an address that is not the port's: MAC, IPv4 and IPv6 source,
//     ARP sender, ND target (guard4.go, guard6.go). Router advertisements, redirects and DHCP server
//     replies are the gateway's alone.
//  3. Learn. fdb.Map binds the source MAC to the port, up to the port's limit. Ports whose MAC control
//     knows have a static entry and learn nothing.
//  4. Resolve. fdb.Resolve names the egress port of a unicast frame. Consecutive frames for the same
//     port leave in one Output call: a batch from a TAP is mostly for the gateway, and the gateway is
//     faster with batches.
//     Packets to 127/8 pass to trusted ports only: sandboxes send them to the resolver in the gateway, and a
//     container's loopback is not its neighbours'. Ports of one Group are apart, but for holes (hole.go).
//  5. Flood. Broadcast and multicast frames go to every other port the ingress port may talk to,
//     limited by a token bucket per ingress port.
//
// Unicast for an address nobody has is dropped, not flooded: every station's address is given by control or
// was learned when it announced itself (ARP, DAD, DHCP), and flooding would show one container's traffic
// to the others, which is what a MAC flood is after.
//
// Frames cross the switch untouched. A 64 KiB frame with a GSO VNet header enters a port that cannot
// take it as it is, and that port segments it.
//
// # Kinds of port
//
//	Trusted  our own code behind it (the gateway): steps 1 to 3 and the rate limit do not apply
//	Strict   a container whose MAC and addresses control gave out: it has these and no others, plus
//	         the link-local address derived from its MAC
//	neither  a guest that configures itself: up to MaxMACs stations, any address of the Network's
//	         subnets and any link-local one, except those that control gave to another port. Two such
//	         guests are not protected from one another's addresses, only from their MACs.
//
// # Invariants
//
//   - A frame never leaves by the port it came in by, nor by one of the same Group.
//   - A MAC and an address belong to one port at a time.
//   - Input changes no byte of a frame; the frame's Buf is offered to one receiver at most.
//   - Every frame not forwarded is counted once. A broadcast counts as forwarded however few ports there are
//     for it; copies that a Group holds back are not drops.
//
// # Concurrency
//
// The ports are an immutable snapshot behind an atomic pointer; Bridge.mu serialises Attach and Detach,
// which replace it. No lock is held across l2.Port.Output, so a port's Output may call Input of its
// own port (the gateway answers ARP this way). Input of one Port may run on several goroutines.
// After Detach returns, a batch that was already on its way may still reach the port's Output.
//
// # Limits
//
//	MaxMACs        4 per port, 1 if strict     more sources are dropped (src-mac-spoofed)
//	BroadcastRate  1000/s, BroadcastBurst 100  further broadcasts are dropped (broadcast-limit); a frame
//	                                           that will be cut into n segments counts n
//	MaxSegments    128 per frame               more are dropped (vnet-bad)
//
// # Standards
//
// IEEE 802.1D-2004 §7 without spanning tree; RFC 826 and 5227 (ARP), 4861 and 4862 (ND, DAD), 6980 and
// 7113 (ND behind fragments and extension headers); virtio 1.2 §5.1.6 (VNet header).
package bridge

// Package nat carries what containers send to the outside, and decides what they may send there.
//
// # Theory of operation
//
// An unprivileged process cannot put packets on the host's network. So a datagram of a container
// leaves as a datagram of an ordinary host socket, and what comes back to that socket is made into a
// packet again: masquerading, done by the host's kernel. TCP works the same way but needs a
// transport of its own and lives in stack/gateway; this package is UDP, ping and, for all three, the
// Policy.
//
//	container ── UDP.Input ─► Policy ─► flow ─► sendBuf ── Flush, sendmmsg ─► host socket ─► outside
//	container ◄─ Emitter ◄─ headers ◄─ filter ◄──────────── recvmmsg ◄─────── host socket ◄─ outside
//	container ◄─ Emitter ◄─ ICMP error ◄────────────────── error queue ◄───── host socket ◄─ routers
//
// A flow is a container's address and port, whatever it sends to, and has one unconnected socket: the mapping is
// endpoint-independent and the filter address-dependent, which is what peer-to-peer programs need and
// the stricter of the two behaviours RFC 4787 recommends.
//
// # Concurrency
//
// Input and Flush may be called by many goroutines; a container's packets come from one, and leave in
// order. Each socket has a goroutine parked in the poller, started with the flow, ended by closing the socket,
// waited for by Close. One more per UDP and per Ping, from the first flow on, expires flows and sleeps until the next one is due. The lock
// order is written at flows.
//
// # Limits
//
//   - 2048 UDP flows and 256 ping flows a container, and for the Network its share (package quota) of what the
//     process's Networks may have together. At the limit a new flow is refused, with an ICMP error at most once a second; no flow is evicted.
//   - 300 s without an outbound datagram end a UDP flow, 30 s one that only ever spoke to port 53, 60 s a
//     ping. Inbound datagrams and errors do not count.
//   - 256 addresses are remembered a flow, then the one not sent to for longest is forgotten.
//   - 100 ICMP errors a second a container, in bursts of 50.
//   - A container is charged by its link address, so its IPv4 and its IPv6 flows share a limit and addresses it
//     makes up do not raise it.
//
// # Standards
//
// RFC 4787 REQ-1, 3, 5, 6, 8, 10 to 14; RFC 5508 REQ-1 to 6 and 8; RFC 6888 REQ-4 and 11; RFC 7857 §5. Deviations: the
// outside port is the kernel's choice and does not rest before it is used again (RFC 6888 REQ-8), and parity
// is not kept (RFC 4787 REQ-4). Hairpinning to a published port is the port forwarder's (REQ-9).
package nat

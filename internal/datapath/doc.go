// Package datapath is the process that carries packets, seen from both sides of the socket that
// joins it to control: the messages, the server that runs inside it, the client that starts it.
//
// # Theory of operation
//
// Control and datapath are two processes of one binary, joined by a unix SEQPACKET socketpair that
// exists from before the datapath's first instruction; nothing else connects them and nothing has
// a name somebody else could open. Each message is one JSON object of at most MaxMessage bytes,
// with at most one descriptor beside it (a TAP, a listener, a capture file).
//
//	control                                datapath
//	Start ── clone, exec ────────────────► Main: confine, then serve
//	hello ───────────────────────────────►
//	◄──────────────── version, layers of the isolation
//	configure(spec.Network) ─────────────► makes the Backend
//	dns, attach+TAP, publish+listener ───► Backend methods, one after another
//	◄─────────────────────────────────── one reply each, with the request's id
//	◄─────────────────────────────────── events, any time: endpoint down, capture ended
//	(socket closed) ─────────────────────► Backend.Close, exit
//
// Requests are served in the order they come, by one goroutine. A request that cannot be
// understood is answered with an error and changes nothing; the descriptor that came with a
// refused request is closed. A message that is not JSON ends the process: control never sends
// one, so whoever did is not control.
//
// # Invariants
//
//   - The end of the socket is the end of the process: a shim killed by any signal leaves no
//     datapath behind. The parent-death signal is a second, redundant sign for a process too
//     wedged to see the first.
//   - Everything the datapath knows came over the socket, so control can bring a new one to the
//     same state with the same messages (internal/control).
//   - Control imports this package and must not link gVisor, so the Backend is an interface and
//     cmd/usernet says what stands behind it.
//
// # Limits and timeouts
//
// MaxMessage 64 KiB; RequestTimeout 5 s per request, after which the client's owner should Kill;
// 64 events in flight, more are dropped and logged; 2 s for an orderly end.
package datapath

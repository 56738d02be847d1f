// Package datapath is the process that carries packets, seen from both sides of the socket that
// joins it to control: the messages, the server that runs inside it, the client that starts it.
//
// # Theory of operation
//
// Control and datapath are two processes of one binary, joined by a unix SEQPACKET socketpair that
// exists from before the datapath's first instruction; nothing else connects them and nothing has
// a name somebody else could open. Each message is one JSON object of at most MaxMessage bytes,
// with at most one descriptor beside it (a TAP, a listener, a capture file); see internal/wire.
//
//	control                                datapath
//	Start ── clone, exec ────────────────► Main: confine, make the Host, then serve
//	hello ───────────────────────────────►
//	◄──────────────── version, layers of the isolation
//	reserve, upstreams, host-changed ────► for all Networks
//	add-network(spec.Network, hosts) ────► makes a Backend, as many as there are Networks
//	attach+TAP, publish+listener, update ► methods of the Backend named, one after another
//	◄─────────────────────────────────── one reply each, with the request's id
//	◄─────────────────────────────────── events, any time: endpoint down
//	(socket closed) ─────────────────────► Backend.Close of each, exit
//
// Requests are served in the order they come, by one goroutine. A request that cannot be
// understood is answered with an error and changes nothing; the descriptor that came with a
// refused request is closed. A message that is not JSON ends the process: control never sends
// one, so whoever did is not control.
//
// No message and no answer grows with the number of Networks or Endpoints: names travel with their Endpoint,
// listeners one by one. What is known of many things is many messages, which the client sends without
// waiting for each (DoAll).
//
// # Invariants
//
//   - The end of the socket is the end of the process: a shim killed by any signal leaves no
//     datapath behind. The parent-death signal is a second, redundant sign for a process too
//     wedged to see the first.
//   - Everything the datapath knows came over the socket, so control can bring a new one to the
//     same state with the same messages (internal/control).
//   - Control imports this package and must not link gVisor, so Host and Backend are interfaces and
//     cmd/usernet says what stands behind them.
//
// # Limits and timeouts
//
// MaxMessage 64 KiB; RequestTimeout 5 s per request, after which the client's owner should Kill;
// 32 requests on their way; 1024 events waiting, more are dropped and logged; 2 s for an orderly end.
package datapath

// Package datapath is the process that carries packets, seen from both sides of the socket that
// joins it to control: the messages, the server that runs inside it, the client that starts it.
//
// # Theory of operation
//
// Control and datapath are two processes of one binary, joined by a unix SEQPACKET socketpair that
// exists from before the datapath's first instruction. A private sandbox's datapath has nothing else, and nothing with
// a name somebody else could open; a daemon's has an adoption socket beside it (below). Each message is one JSON object of at most MaxMessage bytes,
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
//	(socket closed) ─────────────────────► Backend.Close of each, exit; or wait to be adopted
//
// Requests are served in the order they come, by one goroutine. A request that cannot be
// understood is answered with an error and changes nothing; the descriptor that came with a
// refused request is closed. A message that is not JSON ends the connection: control never sends
// one, so whoever did is not control.
//
// No message and no answer grows with the number of Networks or Endpoints: names travel with their Endpoint,
// listeners one by one. What is known of many things is many messages, which the client sends without
// waiting for each (DoAll).
//
// # Adoption
//
// A process with Config.Socket outlives its control, so that a daemon can die, or be started anew, without a lost packet:
//
//	control 1 ──socketpair──► datapath ──listens──► datapath.sock
//	control 1 dies            packets go on; with no Endpoint the process ends
//	control 2 ──connects────► accepted, when its user is the same
//	hello ──────────────────► the same build, else shutdown
//	inventory {after} ──────► what is held: names and digests, in pages (inventory.go)
//	                          then as above
//
// Control makes the socket, mode 0600 in a directory of mode 0700; the process itself listens, so that SO_PEERCRED of who
// connects names it, and a pidfd stands for it from then on. It accepts only while it has no control: a second
// one is not answered before the first is gone. Which one may connect is the daemon's lock's to say, since a process that
// does not answer the one that adopts it is killed.
// Replies and events of an earlier connection cannot come up: the next one is another socket. Events that nobody could be
// told are told the next control.
//
// # Invariants
//
//   - Without Config.Socket the end of the socket is the end of the process: a shim killed by any signal leaves no
//     datapath behind. The parent-death signal is a second, redundant sign for a process too
//     wedged to see the first. With it the process ends 60 s after its control, if no other came.
//   - Everything the datapath knows came over the socket, so control can bring a new one to the
//     same state with the same messages (internal/control).
//   - Control imports this package and must not link gVisor, so Host and Backend are interfaces and
//     cmd/usernet says what stands behind them.
//
// # Limits and timeouts
//
// MaxMessage 64 KiB; RequestTimeout 5 s per request, after which the client's owner should Kill;
// 32 requests on their way; 1024 events waiting, more are dropped and logged; 2 s for an orderly end; 60 s without a control.
package datapath

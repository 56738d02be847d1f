// Package join is what a sandbox's shim and the daemon say to each other.
//
// # Theory of operation
//
// A sandbox in the daemon's Networks is one connection to join.sock, and the connection is the sandbox's
// life: the shim holds it for as long as the sandbox runs, and its end, in whatever way the shim died, frees
// addresses, names and ports at once. Nothing is polled and no process id is trusted.
//
//	shim (Client)                                    daemon (Server)
//	join {version, config}                ──►        Controller.Join
//	            ◄── joined {links, routes, files, legs}
//	attach {endpoint, info} + TAP         ──►        Sandbox.Attach
//	started {pid}                         ──►        Sandbox.Started
//	            ◄── keep {ports} + sockets           the shim's copy of what was bound
//	            ◄── plug {leg}, unplug, routes, files      changes while it runs
//	publish, unpublish, ports, stats      ──►        for usernet port and usernet inspect
//	leave                                 ──►        Sandbox.Close; then the connection ends
//
// Either side asks, with a number, and the other answers with that number. Each side handles what it is asked
// one after the other, so changes happen in the order in which the Controller wants them.
//
// # A daemon that goes away
//
// The shim keeps a duplicate of each TAP and of each published socket, so what containers hold and what
// clients connect to outlives the daemon. The Client then goes through these states:
//
//	Running ──connection ends──► Restarting ──rejoined──► Running
//	   └───────────Close──────────────┴──Close──► Closed
//
// Restarting, it connects again and again, first within milliseconds and then every second; where nobody
// listens it has a daemon started, with pauses of up to 5 s. To the daemon it finds it gives everything back:
//
//	kept {ports} + sockets, in parts      ──►
//	rejoin {version, config, legs, pid}   ──►        Controller.Rejoin
//	attach + TAP, for each leg            ──►        Sandbox.Attach
//
// Of a sandbox there is one connection. A rejoin of the process that has one already ends it, and waits until the daemon is
// done with it; another process is refused.
//
// A leg comes with all that the next daemon has to be told of it (its Network, what was asked of it), so it is known from
// the moment the interface is there: a connect that a dying daemon left half done is a leg after all.
//
// A daemon that refuses, since it lost the Network perhaps, is asked again every 10 s; the sandbox lives on without
// a network meanwhile. A daemon that ends because it was told to says goodbye first. Then the Client does not start
// another: it waits until somebody does, or until systemd's socket is there again. A request made while there is no
// daemon waits up to 5 s for one.
//
// # Limits
//
// Both sides believe nothing of the other beyond its being the same user (SO_PEERCRED). A message's body is
// at most 8 MiB; one above 32 KiB travels in a sealed memory file, because a socket's buffer would not take it. A
// send that finds no room for 10 s ends the connection: the other side is stuck. A request has 10 s, its answer is
// thrown away afterwards. 64 requests may wait; one more ends the connection. A connection that does
// not begin with join or rejoin within 10 s is closed. 32768 sockets per sandbox, 8192 sandboxes, of which 32 join at the same
// time (turns.go).
package join

// Package control holds Networks together from outside the packet path: it starts the one datapath
// process that carries all of them, gives it TAPs and listeners, tells it what changes on the host, and starts
// another one when it dies. A daemon has one Control for all its Networks; a sandbox that needs no daemon has one with
// a single Network (Private).
//
// # Theory of operation
//
// Control keeps what is wanted (want): the reserved prefixes, the Networks, their Endpoints with a duplicate of
// each TAP and of each socket that is published, the host's resolvers. The datapath process holds what is. One
// goroutine, the supervisor, owns want and is the only one to talk to the process; everything
// else hands it closures (do). So there is one order of events. A change is asked of the process, and wanted
// when it is taken (change.go).
//
// A new process is told all that is wanted, in the order prefixes, resolvers, Networks, Endpoints, ports. It is told
// without waiting for each answer (datapath.DoAll), so that 1 000 Networks with 2 000 Endpoints are there again in
// under a second. Every change costs one request whose size does not depend on how much there is.
//
//	             launched
//	Starting ───────────────► Running ◄──────────┐
//	   │                         │ process ended │ launched, everything sent again
//	   │ cannot be launched      ▼               │
//	   ▼                     Restarting ─────────┘
//	Failed                       │
//	   (Close, from any state)   ▼
//	                           Closed
//
// A process that ends, does not answer within datapath.RequestTimeout, or breaks the protocol is killed, waited for
// and replaced. The first five replacements within a minute start at once; after that each waits
// twice as long as the one before, from one second up to 30 (restarts). The sockets of published
// ports stay open here meanwhile, so clients queue in the backlog instead of being refused.
//
// A refusal by the datapath is not a failure: the request is taken back and the caller gets the
// reason. When something is refused that an earlier datapath had accepted (a TAP whose container
// has ended), that is logged and the rest goes on; its owner takes it back when it is time.
//
// A process that has carried many Endpoints keeps memory for them. Once it has had no Network for a while, a fresh one takes
// its place, in state Running throughout (renew.go).
//
// The first launch of a Control whose datapath has a Socket adopts the process that an earlier Control has left, if
// there is one (adopt.go). A change that the process has already needs no request, and what nobody wants within 30 s is
// removed. Close leaves the process in turn to the next Control when it has Endpoints, and ends it when not.
//
// Descriptors are duplicated, so whoever gave them may close or keep them: a Control that is killed takes nothing
// from who keeps TAPs and sockets, and the next Control is given them again. The duplicates are kept off
// this process's poller, which would wake for every packet (sys.Keep).
//
// # Watching the host
//
// Two goroutines push what the confined process cannot see: changes of resolv.conf (upstreams) and
// of the host's addresses and routes (hostwatch). Both go through channels of one element that hold the latest
// news only, so a busy supervisor never makes them wait.
//
// # Invariants
//
//   - No socket but the socketpair, and the adoption socket of a daemon, exists before the first Publish (LU-02); only
//     Private binds any for the network.
//   - Close leaves nothing: process waited for, duplicates closed, goroutines ended. A process that is left to the
//     next Control is the exception, with the goroutine that waits for it.
//   - The lock guards only what readers see (State, Err, Private's Ports) and is never held across a send.
package control

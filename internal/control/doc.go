// Package control holds one Sandbox's network together from outside the packet path: it starts the
// datapath, gives it TAPs and listeners, tells it what changes on the host, and starts another one when it dies.
//
// # Theory of operation
//
// Control keeps what is wanted (want): the Network, the Endpoints with a duplicate of each TAP,
// the published ports with their bound sockets, the DNS configuration. The datapath process holds what is. One
// goroutine, the supervisor, owns want and is the only one to talk to the process; everything
// else hands it closures (do). So there is one order of events, and bringing a new datapath to the
// wanted state is the same calls in the same order as the first time.
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
// ports are bound here and never closed meanwhile, so clients queue in the backlog instead of being refused.
//
// A refusal by the datapath is not a failure: the request is taken back and the caller gets the
// reason. When something is refused that an earlier datapath had accepted (a TAP whose container
// has ended), that is logged and the rest goes on.
//
// # Watching the host
//
// Two goroutines push what the confined process cannot see: changes of resolv.conf (upstreams) and
// of the host's addresses and routes (hostwatch). Both go through channels of one element that hold the latest
// news only, so a busy supervisor never makes them wait.
//
// # Invariants
//
//   - No socket but the socketpair exists before the first Publish (LU-02).
//   - Close leaves nothing: process waited for, listeners closed, goroutines ended.
//   - The lock guards only what readers see (State, Ports, Err) and is never held across a send.
package control

// Package rootlessport is usernet under the name rootlessport: podman 4 and 5 start it for every container of a rootless
// bridge network that publishes ports.
//
// # Theory of operation
//
// The contract (config.go, main.go, reload.go) is the original's: a JSON object on standard input, ports bound, "1" on
// the ready descriptor, the end when the exit descriptor is closed, a socket that takes the container's new address.
//
// The original opens connections inside the container's network namespace, and the container sees its own address as
// the client's. Here it sees the client's. The process is in the user namespace that owns the container's network
// namespace, so it may do there what a router does:
//
//	client C ──► listener on the host ──► socket inside, IP_TRANSPARENT, bound to C ──lo──► container A, port 80
//	client C ◄── listener on the host ◄── socket inside ◄──lo── rule "from port 80": C is local ◄── container
//
// The way in needs nothing more: A is an address of the namespace, so the packet goes through lo, and its source is not
// checked because its route is known. The way back would be the container's default route, out of the bridge. A routing
// rule for what comes from a published port looks into a table of our own before that, and the table says of
// each client that it is local (inside_linux.go). Everything else, neighbours on the bridge too, finds nothing there
// and goes the way it always did. No interface is added, no packet filter is asked, and nothing changes for a
// connection that the container opens itself.
//
// A client whose address the container could not tell from one of its own or its neighbours' (loopback, the bridge's
// subnet), or of another family than it has, is shown as the original shows all. So is every client where the kernel
// refuses the rules, with one line in the log.
//
// Published sockets, their limits, and which client is shown as whom are package portfwd's. It believes it has a
// gateway: dialer.go makes connections of what that would be asked, and datagrams.go datagrams.
package rootlessport

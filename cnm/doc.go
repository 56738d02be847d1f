// Package cnm is Docker's container network model: Networks, Endpoints and Sandboxes, and the Controller that owns
// them for one user.
//
// # Theory of operation
//
// A Network is a subnet whose members reach each other. A Sandbox is a container's network namespace. An Endpoint
// is one leg of a Sandbox in a Network; a Sandbox may have many legs, in as many Networks, and nothing
// forwards between them. Four parties hold a part of the truth, and the Controller keeps them in agreement:
//
//	Store      what was promised: Networks, and leases (who has which addresses)
//	memory     the model: what is, and what may be asked
//	Datapath   the Networks that have Endpoints, and where ports lead
//	Namespace  the interfaces, routes and files of one Sandbox, changed by its shim
//
// What a Sandbox sees, its routes, its files, its view of names, where its ports lead, is never stored and never
// patched: it follows from its legs by pure functions (gateway.go, names.go, files.go, links.go). To change a
// Sandbox is to change its legs and to tell the others the difference (apply.go). To undo a change is to
// change the legs back and to tell the difference again, so a failure at any step needs no plan of its own.
//
// The order of a change is: store before memory before Datapath and Namespace when something comes to be
// (create.go, endpoint.go, connect.go), the reverse when it goes. So whatever dies, nothing is in use that the store
// does not know of; a lease too many is dropped at the next start or Rejoin (restore.go, rejoin.go).
//
// Networks are told to the Datapath with their first Endpoint and withdrawn after the last: a thousand idle ones
// cost nothing there.
//
// # Concurrency
//
// All methods may be called by many at a time. The locks, in the order they are taken:
//
//	Sandbox.op      one change of a Sandbox at a time; held while its shim is asked
//	network.wire    one Network's dealings with the Datapath
//	Controller.mu   the model; nothing that blocks is called under it
//	port table, address and network drivers, store: leaves
//
// A shim that is dead or stopped holds nobody's lock but its own Sandbox's op: each question has a deadline, and Close
// cancels it. What another Sandbox has to hear of is told by a goroutine of the Controller, one for a Sandbox at
// most, which waits for that Sandbox's turn and is waited for by Controller.Close.
//
// Before Started the Namespace is asked nothing, because its shim is busy starting; what changed meanwhile is told
// then.
package cnm

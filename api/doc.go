// Package api serves Docker's Engine API, as far as networks go, on top of whatever keeps them.
//
// # Theory of operation
//
// A request passes four stations, each of which answers the requests it refuses:
//
//	localhttp   the same user only; limits of size, time and number
//	entry       headers of every answer; the path is clean; /v1.XX says which version the client speaks
//	route       a handler of networks.go, containers.go, system.go or events.go: query and body to types
//	Backend     does it, in the types of github.com/moby/moby/api
//
// Errors are JSON {"message": …}; their status comes from the fault.Kind. Filters are matched here, on the
// answers of the Backend, so that a Backend has nothing to parse.
//
// # Versions
//
// A client asks /_ping which version the server has and then puts the lower of the two into the path, so that a
// client of any age meets the fields it knows. The Backend speaks the newest version; shape.go takes away
// or adds what an older client expects. Without /v1.XX the newest is meant.
//
// # What is not served
//
// Networks and the sandboxes on them are all there is. Images, volumes and Swarm objects do not exist
// here and are not found, which is what `docker inspect` wants to hear on its way through them. Making, starting and
// reading containers is answered with 501 and the command that does it.
package api

// Package engine shows a cnm.Controller and a registry of sandboxes as what Docker's API speaks of: networks and
// containers. It is the api.Backend of the daemon.
//
// # Theory of operation
//
// A container is a sandbox that lives. There are two who know of sandboxes:
//
//	cnm.Controller      those in the daemon's Networks: addresses, names, ports as they are now
//	registry.Dir        all of this user, of every network mode: name, id, process, how to send it a signal
//
// They are joined by the sandbox's id (containers.go). One that only the Controller has is about to start, and shown as
// created. One that only the registry has is private, none, host or of another's network, or lost
// its daemon and has not come back yet; it is shown by its Entry. The Networks none and host have no Endpoints in the
// Controller, so their containers are those whose mode says so.
//
// Nothing is kept here but the latest events, and while somebody reads those, who was there last (unmanaged.go). What is asked is looked up when it is asked, so nothing here can be stale.
//
// # Signals
//
// A sandbox is ended by its shim, over the sandbox's own socket, in all modes: a process id says nothing
// of who has it now. Who waits for the end waits for both the socket and the Controller to have let go, so that
// after `docker rm -f c1` the addresses, names and ports of c1 are free.
package engine

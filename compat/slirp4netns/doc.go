// Package slirp4netns is usernet under the name of slirp4netns: podman, buildah and rootlesskit call it in the place of
// that program, with its options, and find its addresses, its API, its messages and its exit codes.
//
// # Theory of operation
//
// The process that the caller started stays, is the control of one private Network (compat/session), and serves
// the API; packets are moved by its child, the datapath, which is confined before it has seen one. Both end together,
// however either ends.
//
//  1. The command line is read (options.go) and made a Network and an interface (plan.go).
//  2. The interface is taken over or made in the namespace, or comes as a descriptor, or is a socket (target_linux.go).
//  3. The API socket is bound (api.go).
//  4. What the original says at that point is written to standard output, and "1" to the ready descriptor.
//  5. It lasts until the exit descriptor has an event, a signal comes, or the namespace is gone.
//
// The order of 3 and 4 is part of the contract: who has read "1" may use the API.
//
// # Where it differs
//
// docs/COMPATIBILITY.md has the list. In short: what is not confined in the original unless it is asked for is always
// confined here, what crashes or stalls the original is an error here, and IPv6 works in the API.
package slirp4netns

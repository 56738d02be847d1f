// Package portfwd publishes ports of containers on the host.
//
// # Theory of operation
//
//  1. Parse reads a --publish value into Specs; Listen, in control, binds them exactly and hands
//     over the sockets. From here on the datapath process owns them, and a datapath that is
//     started anew gets the same sockets again: a published port is never unbound in between.
//  2. Forwarder.Add starts one goroutine for each socket. For TCP it accepts and starts a goroutine
//     per connection, which gives the connection to the Dialer (the gateway) with the address
//     the container is to see; the Dialer connects inside the Network and relays. A client on the
//     host's loopback is connected from inside the container's namespace instead, where that can be
//     (inside_linux.go), and the two sockets are spliced (splice_linux.go).
//  3. For UDP the goroutine receives in batches, finds or makes the flow of each datagram, and
//     emits a packet to the container with the client's address as its source. The container's
//     replies come back on the TAP reader's goroutine through InputUDP, which finds the flow by
//     {container, peer} and queues the reply on the flow's socket; Flush sends what was queued.
//
// # What a container sees
//
// The client's own address and port (source.go), because that is what access logs and address
// rules in the container are about. Exceptions see the gateway's address: loopback clients and
// others the container could not answer, and clients of a family the container does not have. A spliced
// loopback client has the container's own address, which the container's kernel picks.
// A remote client never appears as 127.0.0.1 (LU-12), and only the container's own address is ever
// dialled, so what a container binds to its loopback stays there (LU-11).
//
// # Concurrency
//
// All methods of Forwarder may be called by any goroutine. Remove and Close wait for the goroutines
// they stop, so they are not called from a Dialer or an Emitter. Locks are leaves: none is held
// across a system call, the Dialer or the Emitter.
//
// # Limits
//
// See Limits. At a TCP limit the client gets a reset; at a UDP limit the oldest flow that was never
// answered makes room, and without one the datagram is dropped. Both count as drop.PublishLimit.
//
// # ICMP
//
// A container that refuses a UDP datagram answers with port unreachable. The client cannot be told:
// an ordinary socket sends no ICMP. The gateway counts it and the flow stays until it is idle.
package portfwd

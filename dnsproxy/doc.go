// Package dnsproxy is a Network's name server: it answers for the names of endpoints and forwards the rest.
//
// It moves no packets. The gateway hands it the payload of each datagram sent to the DNS address and a
// function that sends one back, and a listener for TCP. The answers of the host's resolvers come
// through sockets of the host, opened here; a server that is a container of the Network is asked through
// the gateway (Env.Inside). It reads no file and asks no netlink, because the process it
// runs in may do neither: whoever watches resolv.conf (package resolvconf) calls Configure.
//
// # Theory of operation
//
// A query goes through four steps, and each can end it:
//
//  1. Parse (query.go). One question, opcode QUERY, records that do not lie about their lengths.
//     Everything else gets FORMERR or NOTIMP in twelve bytes, or silence when it is no query at all.
//  2. Local names. Each client has a view (view.go): its links, the zones of its Networks (zone.go), whether the rest
//     is forwarded and where. A name that is known is answered at once and never leaves the host, for no
//     record type: a missing family is NOERROR without data. So is the reverse of a local address. Names of
//     Networks that the client is not in are not told and do not leave either (directory.go).
//  3. Admission and coalescing (flight.go). A client has at most 256 queries in flight, all clients of all Servers
//     of the process together 1024, and each finds room beside the others (package quota); the next one gets
//     SERVFAIL at once. Queries that ask the same thing of the same upstreams share one flight, so a thousand of them put one query on the wire and do not give
//     somebody who forges answers a thousand ids to hit (the birthday attack).
//  4. The flight (forward.go) asks the upstreams in order.
//
// # What goes upstream
//
// The query sent upstream is written anew from what was parsed: the bits RD, AD and CD, the question
// in the letters the client used, and an OPT record with the DO bit when the client sent one. No other byte of
// the client's reaches the host's resolver, so port 53 is no tunnel. EDNS options stop here because they belong
// to one hop (RFC 6891 §6.2.6, RFC 7873, RFC 7828), and because queries that differ only in
// options could not be coalesced. The answer comes back as it is, except for the id and the case of the question.
//
// An answer counts when it comes from the upstream's address to the socket of this one query, and
// repeats the random id and the question letter by letter; otherwise the flight goes on waiting (RFC 5452).
// Each query has a socket of its own, so the kernel picks a random source port.
//
// # Failing over
//
// An upstream that is silent for 1.5 s is joined, not replaced, by the next: the first good answer from
// either wins, so a slow upstream is never worse than with patience. It is also marked down, and while it
// is, queries start at the next; every 10 s one query sends it a copy that nobody waits for, to see
// whether it is back. SERVFAIL and REFUSED move on at once. After 5 s the client gets SERVFAIL.
//
// # No cache
//
// The host's resolver has one, a millisecond away at most; a second would have to be told of every change
// of network and would be what a poisoner aims at. Nothing an upstream says is kept.
package dnsproxy

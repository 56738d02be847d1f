// Package ipam gives out addresses: to each Network a prefix nobody else has, and in it an address to each
// Endpoint. The rules, their order and their texts are Docker's (moby, daemon/libnetwork/ipams).
//
// # Theory of operation
//
// A Pool is the prefix of one Network. A caller names it, or asks for any of a size ("0.0.0.0/24", "::/56"), or
// for any at all. What is chosen comes out of Blocks, the parts of the address space that are ours to take
// from:
//
//  1. Blocks are walked from the lowest address up, and in each the prefixes of the wanted length.
//  2. A prefix is taken when it overlaps no Pool and nothing reserved (the host's on-link routes, its
//     resolvers). One that overlaps is not stepped over one by one: the walk goes on behind what is in the way,
//     so that a reserved /8 costs one step and not 65 536.
//  3. A prefix that the caller names is only compared with Pools. Whoever names a prefix of the host's means it.
//
// Within a Pool addresses are given out first fit: the lowest free one, and one that was released is the
// next to go. The set of those in use is a sorted list of spans that do not touch, hence the first free address is
// the one behind the span it falls into: one binary search, whatever the size of the Pool. First fit keeps that
// list short, one span as long as nobody leaves.
//
// # Invariants
//
//   - Two Pools of one Allocator never overlap.
//   - An address is in use once; its release makes exactly it free.
//   - The address of the network, and the broadcast address of IPv4, are never given out and never released
//     (except /31 and /32, which have neither: RFC 3021).
//
// # Concurrency
//
// An Allocator may be used by many at a time. It has one lock, never held across a callback.
//
// # Limits
//
// A Range (--ip-range) bounds what is chosen, not what may be asked for: an address outside it but in the
// Pool is given to who asks for it. Docker lets two networks share a prefix when their Ranges differ; here a
// prefix has one owner, because all Networks of a user share a datapath that must tell them apart.
package ipam

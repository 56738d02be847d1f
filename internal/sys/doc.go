// Package sys holds the system calls the datapath makes itself, because neither net nor os offers
// them without an allocation per message or a lock around each call.
//
// # How a call meets the Go poller
//
// Every file here is non-blocking. A call that may wait runs inside syscall.RawConn.Read, so the
// goroutine parks in the poller and Close wakes it; the closure RawConn wants is made once, when
// the reader or batch is made, and its arguments are fields. A call that must never wait (sending)
// runs inside RawConn.Control, which only keeps the descriptor from being closed underneath and
// takes no lock, so several goroutines write at once.
//
// # Topics
//
//   - iov: readv and writev (the TAP)
//   - mmsg, cmsg, sockaddr: recvmmsg and sendmmsg with control messages (NAT, published ports)
//   - errqueue: ICMP errors about what a socket sent
//   - fdpass: descriptors over a SEQPACKET socket
//   - sockopt, probe: what the kernel can do
//   - yield: how goroutines that always have work take turns with those that wait
//   - processors: how many of them run at the same time
//
// Errors are the bare syscall.Errno, so a caller can compare them without unwrapping; whoever shows
// one to a person says what was being done.
package sys

package sys

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrOrigin says who reported a SockError.
type ErrOrigin uint8

// The origins, SO_EE_ORIGIN_* of linux/errqueue.h.
const (
	OriginNone  ErrOrigin = 0
	OriginLocal ErrOrigin = 1 // this host: EMSGSIZE when a datagram exceeds the path MTU it knows
	OriginICMP  ErrOrigin = 2
	OriginICMP6 ErrOrigin = 3
)

// SockError is one entry of a socket's error queue: an error about a datagram sent earlier.
type SockError struct {
	Errno    syscall.Errno
	Origin   ErrOrigin
	Type     uint8          // ICMP type and code, with OriginICMP and OriginICMP6
	Code     uint8          //
	Info     uint32         // the MTU, with EMSGSIZE
	Offender netip.Addr     // who sent the ICMP error; invalid when the error is local
	Dst      netip.AddrPort // where the datagram went
	Scope    uint32         // interface index of a link-local Dst
	Local    netip.Addr     // with OptPktInfo: the address the ICMP error came to
	Payload  []byte         // the datagram, or its beginning, from the UDP payload (or ICMP header) on; borrowed until the next read
}

// ErrQueue reads error queues (IP_RECVERR and IPV6_RECVERR, ip(7)). Its memory is made once; it
// belongs to one goroutine at a time and is not tied to a socket.
type ErrQueue struct {
	data [2048]byte
	ctrl [512]byte
	name sockaddr
	iov  unix.Iovec
	hdr  unix.Msghdr

	n   int
	err syscall.Errno
	fn  func(fd uintptr)
}

// NewErrQueue makes a reader.
func NewErrQueue() *ErrQueue {
	q := new(ErrQueue)
	q.iov.Base = &q.data[0]
	q.iov.SetLen(len(q.data))
	q.fn = func(fd uintptr) { q.n, q.err = q.recv(fd) }
	return q
}

// Read takes the oldest entry off the queue. It never waits: an empty queue is syscall.EAGAIN.
//
// The poller wakes a receiver when an entry arrives (EPOLLERR), and its next receive or send
// reports the entry's Errno once; that is the moment to read the queue until it is empty.
func (q *ErrQueue) Read(rc syscall.RawConn) (SockError, error) {
	if err := rc.Control(q.fn); err != nil {
		return SockError{}, closedError(rc, err)
	}
	return q.result()
}

// ReadFD is Read on a bare descriptor, which the caller keeps open meanwhile.
func (q *ErrQueue) ReadFD(fd int) (SockError, error) {
	q.n, q.err = q.recv(uintptr(fd))
	return q.result()
}

func (q *ErrQueue) recv(fd uintptr) (int, syscall.Errno) {
	for {
		q.hdr = unix.Msghdr{Name: q.name.base(), Namelen: sockaddrLen, Iov: &q.iov, Control: &q.ctrl[0]}
		q.hdr.SetIovlen(1)
		q.hdr.SetControllen(len(q.ctrl))
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&q.hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func (q *ErrQueue) result() (SockError, error) {
	if q.err != 0 {
		return SockError{}, q.err
	}
	e := SockError{Payload: q.data[:q.n]}
	e.Dst, e.Scope = parseSockaddr(q.name[:min(q.hdr.Namelen, sockaddrLen)])
	var m Received
	b := q.ctrl[:q.hdr.Controllen]
	m.readControl(b)
	e.Local = m.Local
	for {
		level, typ, data, rest, ok := nextCmsg(b)
		if !ok {
			return e, nil
		}
		b = rest
		v4 := level == unix.IPPROTO_IP && typ == unix.IP_RECVERR
		v6 := level == unix.IPPROTO_IPV6 && typ == unix.IPV6_RECVERR
		if v4 || v6 {
			e.readExtended(data)
		}
	}
}

// readExtended reads a struct sock_extended_err and the offender's address after it.
func (e *SockError) readExtended(b []byte) {
	const size = 16
	if len(b) < size {
		return
	}
	e.Errno = syscall.Errno(binary.NativeEndian.Uint32(b))
	e.Origin, e.Type, e.Code = ErrOrigin(b[4]), b[5], b[6]
	e.Info = binary.NativeEndian.Uint32(b[8:])
	if off, _ := parseSockaddr(b[size:]); off.IsValid() {
		e.Offender = off.Addr()
	}
}

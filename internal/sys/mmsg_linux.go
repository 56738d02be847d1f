package sys

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2); Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// Received is one datagram of a RecvBatch.
type Received struct {
	Data      []byte // the payload, borrowed until the next receive into the batch
	From      netip.AddrPort
	Scope     uint32     // interface index of a link-local From, else 0
	Local     netip.Addr // the address it was sent to, with OptPktInfo
	IfIndex   int        // the interface it came in by, with OptPktInfo
	Segment   int        // with OptUDPGRO: Data is several datagrams of this size (the last may be shorter); 0: one
	TTL       uint8      // with OptTTL; 0 when not known
	TOS       uint8      // with OptTTL
	Truncated bool       // the datagram was longer than the batch's size
}

// RecvBatch receives up to Cap datagrams with one system call. Its memory is made once; it belongs
// to one goroutine at a time and is not tied to a socket, so many sockets share a few batches
// (BatchPool).
type RecvBatch struct {
	size  int
	data  []byte
	ctrl  []byte
	names []sockaddr
	iov   []unix.Iovec
	hdr   []mmsghdr

	n      int
	err    syscall.Errno
	waitFn func(fd uintptr) bool
	tryFn  func(fd uintptr)
}

// NewRecvBatch makes a batch of n datagrams of at most size bytes. With UDP GRO size must be 65535.
func NewRecvBatch(n, size int) *RecvBatch {
	b := &RecvBatch{
		size: size,
		data: make([]byte, n*size), ctrl: make([]byte, n*controlLen),
		names: make([]sockaddr, n), iov: make([]unix.Iovec, n), hdr: make([]mmsghdr, n),
	}
	for i := range b.hdr {
		b.iov[i].Base = &b.data[i*size]
		b.iov[i].SetLen(size)
		h := &b.hdr[i].hdr
		h.Name = b.names[i].base()
		h.Iov = &b.iov[i]
		h.SetIovlen(1)
		h.Control = &b.ctrl[i*controlLen]
	}
	b.tryFn = func(fd uintptr) { b.n, b.err = b.recv(fd) }
	b.waitFn = func(fd uintptr) bool {
		b.n, b.err = b.recv(fd)
		return b.err != unix.EAGAIN
	}
	return b
}

// Cap is how many datagrams fit.
func (b *RecvBatch) Cap() int { return len(b.hdr) }

// Len is how many the last receive brought.
func (b *RecvBatch) Len() int { return b.n }

// Bytes is how much payload the last receive brought, for Linger.
func (b *RecvBatch) Bytes() (n int) {
	for i := range b.hdr[:b.n] {
		n += int(b.hdr[i].len)
	}
	return n
}

// Recv waits on the poller until there is a datagram, then receives what is there, up to Cap.
// An error the socket holds for an earlier send (ECONNREFUSED and the like) is returned once.
func (b *RecvBatch) Recv(rc syscall.RawConn) (int, error) {
	if err := rc.Read(b.waitFn); err != nil {
		b.n = 0
		return 0, closedError(rc, err)
	}
	return b.result()
}

// TryRecv is Recv without waiting: syscall.EAGAIN when there is nothing.
func (b *RecvBatch) TryRecv(rc syscall.RawConn) (int, error) {
	if err := rc.Control(b.tryFn); err != nil {
		b.n = 0
		return 0, closedError(rc, err)
	}
	return b.result()
}

// RecvFD is TryRecv on a bare descriptor, which the caller keeps open meanwhile.
func (b *RecvBatch) RecvFD(fd int) (int, error) {
	b.n, b.err = b.recv(uintptr(fd))
	return b.result()
}

func (b *RecvBatch) result() (int, error) {
	if b.err != 0 {
		return 0, b.err
	}
	return b.n, nil
}

func (b *RecvBatch) recv(fd uintptr) (int, syscall.Errno) {
	for i := range b.hdr {
		// The kernel overwrites the lengths on every receive.
		h := &b.hdr[i].hdr
		h.Namelen = sockaddrLen
		h.SetControllen(controlLen)
		h.Flags = 0
	}
	for {
		n, errno := batchCall(unix.SYS_RECVMMSG, fd, b.hdr, unix.MSG_DONTWAIT, b.n == len(b.hdr))
		switch errno {
		case 0:
			return n, 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// batchCall makes one of the two calls for datagrams. Neither waits, so for a few datagrams the scheduler is not told,
// as in vec. Telling it wakes the runtime's monitor thread, if the process was idle: at each round trip of a
// datagram, that thread took 30 % of the CPU time and three of four context switches (measured on 2 CPUs, perf).
// A busy goroutine, one with full batches, does tell: without the monitor nothing would take the CPU from it.
func batchCall(trap, fd uintptr, hdr []mmsghdr, flags uintptr, busy bool) (int, syscall.Errno) {
	var n uintptr
	var errno syscall.Errno
	if busy {
		n, _, errno = unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(hdr))), uintptr(len(hdr)), flags, 0, 0)
	} else {
		n, _, errno = unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(hdr))), uintptr(len(hdr)), flags, 0, 0)
	}
	return int(n), errno
}

// Message returns datagram i of the last receive, i < Len. It does not allocate.
func (b *RecvBatch) Message(i int) Received {
	h := &b.hdr[i]
	m := Received{
		Data:      b.data[i*b.size:][:h.len],
		Truncated: h.hdr.Flags&unix.MSG_TRUNC != 0,
	}
	m.From, m.Scope = parseSockaddr(b.names[i][:min(h.hdr.Namelen, sockaddrLen)])
	m.readControl(b.ctrl[i*controlLen:][:h.hdr.Controllen])
	return m
}

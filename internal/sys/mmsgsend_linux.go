package sys

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Datagram is one datagram to send. Zero fields are left to the socket.
type Datagram struct {
	To      netip.AddrPort // invalid on a connected socket; 4-in-6 for IPv4 on an IPv6 socket
	Scope   uint32         // interface index for a link-local To
	Data    [][]byte       // the payload in parts, borrowed until the batch is sent
	Segment int            // UDP GSO: cut Data into datagrams of this size; at most 64 of them
	Local   netip.Addr     // source address, of To's family
	IfIndex int            // interface to leave by
	TTL     uint8          // time to live or hop limit
	TOS     uint8          // DSCP and ECN bits
}

// SendBatch sends up to Cap datagrams with one system call. Its memory is made once; it belongs to
// one goroutine at a time and is not tied to a socket.
type SendBatch struct {
	names []sockaddr
	ctrl  []byte
	iov   []unix.Iovec // grows never: hdr points into it
	hdr   []mmsghdr
	errs  []syscall.Errno

	n, sent int
	first   syscall.Errno
	retried bool
	fn      func(fd uintptr)
}

// NewSendBatch makes a batch of n datagrams with parts slices of payload among them on average.
func NewSendBatch(n, parts int) *SendBatch {
	b := &SendBatch{
		names: make([]sockaddr, n), ctrl: make([]byte, n*controlLen),
		iov: make([]unix.Iovec, 0, n*parts), hdr: make([]mmsghdr, n), errs: make([]syscall.Errno, n),
	}
	b.fn = func(fd uintptr) { b.sent, b.first = b.send(fd) }
	return b
}

// Cap is how many datagrams fit.
func (b *SendBatch) Cap() int { return len(b.hdr) }

// Len is how many wait to be sent.
func (b *SendBatch) Len() int { return b.n }

// Add puts m at the end of the batch. It reports false, changing nothing, when the batch has no
// room for it; then send and add again.
func (b *SendBatch) Add(m *Datagram) bool {
	if b.n == len(b.hdr) || len(b.iov)+len(m.Data) > cap(b.iov) {
		return false
	}
	i := b.n
	b.n++
	h := &b.hdr[i].hdr
	*h = unix.Msghdr{}
	if m.To.IsValid() {
		h.Name = b.names[i].base()
		h.Namelen = b.names[i].put(m.To, m.Scope)
	}
	at := len(b.iov)
	for _, d := range m.Data {
		b.iov = appendIovec(b.iov, d)
	}
	if n := len(b.iov) - at; n > 0 {
		h.Iov = &b.iov[at]
		h.SetIovlen(n)
	}
	if c := m.control(b.ctrl[i*controlLen:][:0:controlLen]); len(c) > 0 {
		h.Control = unsafe.SliceData(c)
		h.SetControllen(len(c))
	}
	return true
}

// Send sends all that waits and empties the batch. It never waits for room in the socket. It
// returns how many went and the first error; Err tells which did not go.
//
// A datagram the kernel refuses is skipped and the rest goes on, except that EAGAIN ends the
// batch. An error the socket holds for an earlier datagram (an ICMP error) is not this datagram's
// fault: it is tried once more.
func (b *SendBatch) Send(rc syscall.RawConn) (sent int, err error) {
	if err := rc.Control(b.fn); err != nil {
		b.reset()
		return 0, closedError(rc, err)
	}
	return b.result()
}

// SendFD is Send on a bare descriptor, which the caller keeps open meanwhile.
func (b *SendBatch) SendFD(fd int) (sent int, err error) {
	b.sent, b.first = b.send(uintptr(fd))
	return b.result()
}

// Err is what became of datagram i of the last send: 0 when it went.
func (b *SendBatch) Err(i int) syscall.Errno { return b.errs[i] }

// Retried reports whether the last send met an error the socket held for an earlier datagram. That took the
// error off the socket, so the receiver will not see it; whoever asks reads the error queue.
func (b *SendBatch) Retried() bool { return b.retried }

// Reset forgets what waits.
func (b *SendBatch) Reset() { b.reset() }

func (b *SendBatch) result() (int, error) {
	b.reset()
	if b.first != 0 {
		return b.sent, b.first
	}
	return b.sent, nil
}

func (b *SendBatch) reset() {
	clear(b.iov) // let go of the payloads
	b.iov = b.iov[:0]
	b.n = 0
}

func (b *SendBatch) send(fd uintptr) (sent int, first syscall.Errno) {
	clear(b.errs[:b.n])
	b.retried = false
	retried := -1
	for at := 0; at < b.n; {
		n, errno := batchCall(unix.SYS_SENDMMSG, fd, b.hdr[at:b.n], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, b.n == len(b.hdr))
		switch {
		case errno == 0:
			sent += n
			at += n
			continue
		case errno == unix.EINTR:
			continue
		case pending(errno) && retried != at:
			retried, b.retried = at, true
			continue
		}
		if first == 0 {
			first = errno
		}
		b.errs[at] = errno
		at++
		if errno == unix.EAGAIN {
			for ; at < b.n; at++ {
				b.errs[at] = errno
			}
		}
	}
	return sent, first
}

// pending reports whether errno may be an earlier datagram's, left in the socket by an ICMP error.
func pending(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENOPROTOOPT,
		unix.EACCES, unix.EPROTO, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENONET:
		return true
	}
	return false
}

package sys

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pipeSize is what a Pipe is asked to hold and the most that is moved at once: the largest an ordinary user may have.
// Each move wakes the receiver, so fewer are better: 25 Gbit/s with 1 MiB, 21 with 256 KiB, 18 with 128 KiB where plain
// loopback has 27. A user over the kernel's bound for all pipes (pipe-user-pages-soft) gets smaller ones.
const pipeSize = 1 << 20

// maxIdlePipes are kept for the next who needs one: as many directions as are busy at the same moment on the cores of a
// large machine. Descriptors are all that an empty pipe costs.
const maxIdlePipes = 32

// Pipe carries bytes from one socket to another inside the kernel. It belongs to one goroutine.
//
// Its calls are quiet: the scheduler is not told of them, or its monitor would move the only P to another thread in the middle of
// every long one (20 instead of 25 Gbit/s). They never wait, and the longest, of 1 MiB, takes less than a millisecond; who
// makes many in a row calls Yield.
type Pipe struct {
	r, w int
	n    int // bytes inside
}

var idlePipes struct {
	mu   sync.Mutex // a leaf; guards list
	list []*Pipe
}

// GetPipe returns an empty Pipe.
func GetPipe() (*Pipe, error) {
	idlePipes.mu.Lock()
	if last := len(idlePipes.list) - 1; last >= 0 {
		p := idlePipes.list[last]
		idlePipes.list = idlePipes.list[:last]
		idlePipes.mu.Unlock()
		return p, nil
	}
	idlePipes.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// A smaller pipe is as good, with more calls.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &Pipe{r: fds[0], w: fds[1]}, nil
}

// Put gives the Pipe back. One that still holds bytes is closed.
func (p *Pipe) Put() {
	idlePipes.mu.Lock()
	keep := p.n == 0 && len(idlePipes.list) < maxIdlePipes
	if keep {
		idlePipes.list = append(idlePipes.list, p)
	}
	idlePipes.mu.Unlock()
	if !keep {
		unix.Close(p.r)
		unix.Close(p.w)
	}
}

// Fill moves what the socket fd has received into the Pipe, which must be empty, and returns how much; 0 is the
// end of the stream. It never waits: EAGAIN says that there is nothing.
func (p *Pipe) Fill(fd uintptr) (int, error) {
	for {
		n, errno := spliceQuietly(int(fd), p.w, pipeSize)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN, errno == 0 && n == 0:
			return p.fillUrgent(fd)
		case errno == 0:
			p.n += n
			return n, nil
		default:
			return 0, errno
		}
	}
}

// fillUrgent moves one byte, if there is any, by way of memory. splice(2) does not go beyond urgent data of TCP: in front of it there
// seems to be nothing, or the end, for ever. To read the byte takes its urgency away.
func (p *Pipe) fillUrgent(fd uintptr) (int, error) {
	var b byte
	n, errno := receiveByte(fd, &b, 0)
	switch {
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, nil
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.w), uintptr(unsafe.Pointer(&b)), 1); errno != 0 {
		return 0, errno // an empty pipe has room: it is out of memory
	}
	p.n = 1
	return 1, nil
}

// Peek tells what to read the socket fd would give: 1, something; 0, the end of the stream; EAGAIN, nothing yet. Any other error is told
// once, by whoever asks first.
func Peek(fd uintptr) (int, error) {
	var b byte
	n, errno := receiveByte(fd, &b, unix.MSG_PEEK)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

func receiveByte(fd uintptr, b *byte, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(b)), 1, uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// Drain moves bytes from the Pipe to the socket fd and returns how many are left. It never waits: EAGAIN says
// that the socket has no room.
func (p *Pipe) Drain(fd uintptr) (left int, err error) {
	for p.n > 0 {
		n, errno := spliceQuietly(p.r, int(fd), p.n)
		switch errno {
		case unix.EINTR:
		case 0:
			p.n -= n
		default:
			return p.n, errno
		}
	}
	return 0, nil
}

func spliceQuietly(from, to, n int) (int, syscall.Errno) {
	moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return int(moved), errno
}

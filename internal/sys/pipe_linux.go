package sys

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is what a Pipe is asked to hold. A slot of a pipe refers to a fragment of a packet, up to 32 KiB on
// loopback, so the 16 slots there are by default would often do; a user over the kernel's bound for pipes
// (pipe-user-pages-soft) keeps those.
const pipeSize = 1 << 20

// maxIdlePipes are kept for the next who needs one: as many directions as are busy at the same moment on the cores of a
// large machine. Descriptors are all that an empty pipe costs.
const maxIdlePipes = 32

// Pipe carries bytes from one socket to another inside the kernel. It belongs to one goroutine.
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
		n, err := unix.Splice(int(fd), nil, p.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			p.n += int(n)
		}
		return int(n), err
	}
}

// Drain moves bytes from the Pipe to the socket fd and returns how many are left. It never waits: EAGAIN says
// that the socket has no room.
func (p *Pipe) Drain(fd uintptr) (left int, err error) {
	for p.n > 0 {
		n, err := unix.Splice(p.r, nil, int(fd), nil, p.n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return p.n, err
		default:
			p.n -= int(n)
		}
	}
	return 0, nil
}

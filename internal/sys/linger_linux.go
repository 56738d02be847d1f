package sys

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// A process that waits lets its CPU sleep, and waking a sleeping CPU takes 10 to 30 µs on a virtual machine: more than
// all the work on a small packet. A round trip through a relay has four such wake-ups, two of which are the relay's. In
// request and response the next packet comes a few dozen µs after the last. So where packets come like that, the
// process lingers: it looks at its descriptors again and again until nothing has come for lingerFor, and only then waits.
//
// Lingering is a loop of look, which lets every other goroutine run and the scheduler look at the network, as Yield does. So
// whatever comes is handled by who waits for it, in the usual way.
//
// It must cost nothing where it gains nothing. So
//
//   - it needs credit. Small packets that follow each other closely earn it, whether the process lingered or not; one that
//     comes late costs more than one earns; a large one takes all, because a stream needs the CPU and does not wait.
//   - each look offers the CPU to others first (sched_yield). If that takes long, the CPU is wanted, and
//     there is no lingering for a while; if it takes very long, a limit on CPU time has stopped the process (cgroups), and
//     there is none for much longer.
//   - with a single CPU there is none: those who would answer run on it.
const (
	// lingerFor is three of the waits there are in a round trip whose other ends sleep (27 µs to wake, 5 to 10 to answer).
	lingerFor = 100 * time.Microsecond
	// lingerBytes is more than a request or an answer has; see quiet calls.
	lingerBytes = 4 << 10

	creditStart = 8  // it takes so much to linger: two round trips, or a connection's packets
	creditMost  = 32 // a few late packets, as any machine has them, do not end it
	creditLate  = 4  // what a late one costs

	wantedAfter  = 200 * time.Microsecond // others had the CPU for so long: no lingering for wantedPause
	wantedPause  = 2 * time.Millisecond
	limitedAfter = 10 * time.Millisecond
	limitedPause = time.Second
)

// lingering is the state of Linger.
var lingering struct {
	once sync.Once
	base time.Time
	look syscall.RawConn // nil where there is no lingering
	fd   *os.File        // owns what look uses; never closed

	mu     sync.Mutex
	on     bool          // guarded by mu; a goroutine lingers
	last   time.Duration // guarded by mu; when something was handled, since base
	credit int           // guarded by mu
	pause  time.Duration // guarded by mu; there is no lingering before that
}

// Linger is told of each batch of packets, n bytes in all, right after it has been handled. If more of the kind is to be
// expected at once, the process looks for it for a moment instead of waiting. Linger itself returns at once.
func Linger(n int) {
	l := &lingering
	l.once.Do(openLinger)
	if l.look == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.base)
	gap := now - l.last
	l.last = now
	switch {
	case n > lingerBytes:
		l.credit = 0
	case gap > lingerFor:
		l.credit = max(0, l.credit-creditLate)
	default:
		l.credit = min(creditMost, l.credit+1)
	}
	if l.on || l.credit < creditStart || now < l.pause {
		return
	}
	l.on = true
	go linger()
}

func openLinger() {
	l := &lingering
	l.base = time.Now()
	if runtime.NumCPU() == 1 {
		return
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return
	}
	l.fd = os.NewFile(uintptr(fd), "linger")
	l.look, _ = l.fd.SyscallConn() // fails for a nil file only
}

// linger looks at the network until nothing has come for lingerFor. It ends by itself, and soon.
func linger() {
	l := &lingering
	asked := false
	// As askTurn, but quiet: who lingers has not much to do, and the monitor would not be idle all the time.
	ask := func(fd uintptr) (done bool) {
		if asked {
			return true
		}
		asked = true
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(one))), 8)
		return errno != 0
	}
	for {
		before := time.Since(l.base)
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		now := time.Since(l.base)
		l.mu.Lock()
		switch away := now - before; {
		case away > limitedAfter:
			l.pause = now + limitedPause
		case away > wantedAfter:
			l.pause = now + wantedPause
		}
		if now < l.pause || l.credit == 0 || now-l.last > lingerFor {
			l.on = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		asked = false
		_ = l.look.Read(ask)
	}
}

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
// Measured, 2 CPUs, client, server and relay apart: 126 µs for a TCP round trip without, 94 with it (medians of 20, taking
// turns; slirp4netns 83).
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

	nearFinds = 32                   // so many finds at the first look, one after the other: more than a connection or two have
	nearPause = 4 * time.Millisecond // of which the 16 round trips before take a sixth

	wantedAfter  = 200 * time.Microsecond // others had the CPU for so long: no lingering for wantedPause
	wantedPause  = 2 * time.Millisecond
	limitedAfter = 10 * time.Millisecond
	limitedPause = time.Second
)

// lingering is what Linger works with.
var lingering struct {
	once sync.Once
	base time.Time
	look syscall.RawConn // nil where there is no lingering
	fd   *os.File        // owns what look uses; never closed
	// asked says that this look has made the eventfd ready. Only the goroutine that lingers uses it.
	asked bool

	mu    sync.Mutex
	state lingerState // guarded by mu
}

// lingerState decides when to linger. Times are since some moment in the past.
type lingerState struct {
	on     bool          // a goroutine lingers
	last   time.Duration // when something was handled
	credit int
	looks  int           // since something was handled
	near   int           // finds at the first look, one after the other
	pause  time.Duration // there is no lingering before that
}

// handled is told that n bytes were handled, and reports whether somebody must begin to linger.
func (s *lingerState) handled(now time.Duration, n int) (begin bool) {
	gap := now - s.last
	s.last = now
	switch {
	case n > lingerBytes:
		s.credit = 0
	case gap > lingerFor:
		s.credit = max(0, s.credit-creditLate)
	default:
		s.credit = min(creditMost, s.credit+1)
	}
	if s.on {
		s.found()
		return false
	}
	if s.credit < creditStart || now < s.pause {
		return false
	}
	s.on, s.looks, s.near = true, 0, 0
	return true
}

// found is told that a look found something.
func (s *lingerState) found() {
	if s.looks <= 1 {
		s.near++
	} else {
		s.near = 0
	}
	s.looks = 0
}

// looked is told that the CPU was offered to others from before to now, and reports whether to go on.
func (s *lingerState) looked(before, now time.Duration) bool {
	s.looks++
	switch away := now - before; {
	case away > limitedAfter:
		s.pause = now + limitedPause
	case away > wantedAfter:
		s.pause = now + wantedPause
	case s.near >= nearFinds:
		s.pause = now + nearPause
	}
	s.on = now >= s.pause && s.credit > 0 && now-s.last <= lingerFor
	return s.on
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
	if l.state.handled(time.Since(l.base), n) {
		go linger()
	}
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

// askLook is askTurn by a system call of which the runtime is not told: its monitor, which would wake up for it, need not watch a goroutine
// that has so little to do. It is not a closure, which would be an allocation each time lingering begins.
func askLook(fd uintptr) (done bool) {
	l := &lingering
	if l.asked {
		return true
	}
	l.asked = true
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(one))), 8)
	return errno != 0
}

// linger looks at the network until nothing has come for lingerFor. It ends by itself, and soon.
func linger() {
	l := &lingering
	for {
		before := time.Since(l.base)
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		l.mu.Lock()
		more := l.state.looked(before, time.Since(l.base))
		l.mu.Unlock()
		if !more {
			return
		}
		l.asked = false
		_ = l.look.Read(askLook)
		// Those for whom the look found something run now. Otherwise each half of a round trip would wait for the two system
		// calls of the next look first (0.91 of a trip, medians of 24, taking turns).
		runtime.Gosched()
	}
}

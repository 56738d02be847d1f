package sys

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// The process runs Go code on one P (GOMAXPROCS=1) for as long as that is enough: a packet changes goroutine twice on
// its way, and on one P that stays on one thread. On a machine with many CPUs one P is at some time not enough. Then
// it takes another, and gives it back when it is not used.
//
// What decides is the CPU time of the process. A watcher looks every lookEvery:
//
//	      used n P for fullLooks looks                the looks after it: more CPU time than before?
//	n ────────────────────────────────► trying n+1 ─┬─ yes ──► n+1
//	▲                                                └─ no ───► n, and no other try for a while, twice as long each time
//	└───────────── used fewer than n-1 P for idleLooks looks ─────────── n+1
//
// The try is what makes limits that nobody told us of hold: where the CPUs are busy with others, or a cgroup's quota
// (cpu.max) stops the process, another P brings no CPU time, and is given back.
//
// The most P there may be is what whoever started the process says (LimitProcessors).
//
// The watcher is started by Yield, which is where a goroutine comes that has work without end, and ends by itself when one P is enough:
// a process that does nothing has no timer.
const (
	lookEvery = 50 * time.Millisecond
	// fullLooks is long for a packet and short for a stream: a tenth of a second and a half.
	fullLooks = 3
	// idleLooks is longer, so that a stream that pauses keeps what it had.
	idleLooks = 20
	// fullPercent of n P used means that all are; the rest is what the scheduler needs.
	fullPercent = 92
	// gainPercent of one CPU is what another P must bring.
	gainPercent = 25
	firstPause  = time.Second
	longPause   = time.Minute
)

// processStart is what the watchers count time from. Not the clock on the wall, which may be put back.
var processStart = time.Now()

// processors is what Yield, Processors and LimitProcessors work with.
var processors struct {
	limit atomic.Int32 // 0: the process does not decide
	now   atomic.Int32 // 0 means 1

	// setting is held while the number of P is changed; mu is not held then.
	setting sync.Mutex

	mu       sync.Mutex
	watching bool           // guarded by mu
	state    processorState // guarded by mu; the watcher's while there is one
}

// processorState decides how many P there are to be. Times are since some moment in the past.
type processorState struct {
	n     int           // P
	full  int           // looks in a row at which all were used
	idle  int           // looks in a row at which one could have been spared
	alone int           // percent of a CPU used before the try that is going on; 0: none is
	pause time.Duration // no try before that
	wait  time.Duration // after the next try that fails
}

// looked is told that percent of one CPU were used since the last look, and returns how many P there are to be.
func (s *processorState) looked(now time.Duration, percent, limit int) int {
	s.n = max(s.n, 1)
	isFull := percent >= s.n*fullPercent
	switch {
	case s.alone > 0:
		return s.tried(now, percent)
	case isFull:
		s.full, s.idle = s.full+1, 0
	case s.n > 1 && percent < (s.n-1)*fullPercent:
		s.full, s.idle = 0, s.idle+1
	default:
		s.full, s.idle = 0, 0
	}
	switch {
	case s.full >= fullLooks && s.n < limit && now >= s.pause:
		s.alone, s.full = percent, 0
		s.n++
	case s.idle >= idleLooks:
		s.idle = 0
		s.n--
	}
	return s.n
}

// tried ends a try, fullLooks after it began.
func (s *processorState) tried(now time.Duration, percent int) int {
	if s.full++; s.full < fullLooks {
		return s.n
	}
	gained := percent >= s.alone+gainPercent
	s.full, s.alone = 0, 0
	if gained {
		s.wait = 0
		return s.n
	}
	s.n--
	s.wait = min(max(firstPause, 2*s.wait), longPause)
	s.pause = now + s.wait
	return s.n
}

// LimitProcessors lets the process take up to n P when it needs them, and makes it begin with one. It is called once, before
// anything else runs.
func LimitProcessors(n int) {
	processors.limit.Store(int32(n))
	if runtime.GOMAXPROCS(0) != 1 {
		runtime.GOMAXPROCS(1)
	}
}

// Processors is how many P the process has: how many goroutines it is worth to share work among. It is 1 unless LimitProcessors
// allows more.
func Processors() int { return max(1, int(processors.now.Load())) }

// MostProcessors is how many there may ever be.
func MostProcessors() int { return max(1, int(processors.limit.Load())) }

// WithMostProcessors calls f while the process has all the P it may ever have, for what settles how many goroutines it works with when it
// is made. f must not call it.
func WithMostProcessors(f func()) {
	most := MostProcessors()
	if most == 1 {
		f()
		return
	}
	processors.setting.Lock()
	defer processors.setting.Unlock()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(most))
	f()
}

// watchProcessors makes sure that somebody looks whether there are enough P.
func watchProcessors() {
	p := &processors
	if p.limit.Load() <= 1 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.watching {
		p.watching = true
		go lookAtProcessors()
	}
}

// lookAtProcessors is the watcher.
func lookAtProcessors() {
	p := &processors
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for before, used := time.Now(), cpuTime(); ; {
		<-tick.C
		now, usedNow := time.Now(), cpuTime()
		percent := int(100 * (usedNow - used) / max(1, now.Sub(before)))
		before, used = now, usedNow
		p.mu.Lock()
		was := max(1, p.state.n)
		n := p.state.looked(now.Sub(processStart), percent, int(p.limit.Load()))
		enough := n == 1 && p.state.full == 0 && p.state.alone == 0
		p.watching = !enough
		p.mu.Unlock()
		if n != was {
			p.setting.Lock()
			runtime.GOMAXPROCS(n)
			p.setting.Unlock()
			p.now.Store(int32(n))
		}
		if enough {
			return
		}
	}
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0 // never: then no P is added
	}
	return time.Duration(ts.Nano())
}

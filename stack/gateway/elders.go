package gateway

import (
	"sync"
	"time"
)

// elders is a queue of those who wait for the same length of time, age. As it is the same for all, who joined first is due first: one timer
// and a linked list serve any number, and to join or leave allocates nothing and leaves a timer that runs as it is. Each time it
// fires it is set for whoever is due next; with nobody left it is not set again.
type elders struct {
	g   *Gateway
	age time.Duration

	mu          sync.Mutex
	first, last *elder      // guarded by mu
	timer       *time.Timer // guarded by mu; nil before the first
	ticks       bool        // guarded by mu; the timer runs
	stopped     bool        // guarded by mu
}

// elder is a place in the queue. It is a field of who waits there, and guarded by the queue's mu.
type elder struct {
	who        ager // nil: not in the queue
	prev, next *elder
	since      time.Time
}

// ager is who waits. aged is called once, when its time has come or the gateway closes, unless it leaves before. It may still be called
// just after that, since the queue's mu is not held meanwhile.
type ager interface{ aged() }

// elderTurn is how many are told at a time, and elderPause what the rest waits for then, so that thousands that are due at once do not keep
// packets waiting: for a flow it takes four system calls.
const (
	elderTurn  = 64
	elderPause = time.Millisecond
)

// add has who join the queue at e, which is its own. It reports false when the gateway closes: then who is not told.
func (l *elders) add(e *elder, who ager) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	e.who, e.since, e.prev = who, now, l.last
	if l.last == nil {
		l.first = e
	} else {
		l.last.next = e
	}
	l.last = e
	l.armLocked(l.age)
	return true
}

func (l *elders) armLocked(d time.Duration) {
	switch {
	case l.ticks:
		return
	case l.timer == nil:
		l.timer = time.AfterFunc(d, func() { l.tick(time.Now()) })
	default:
		l.timer.Reset(d)
	}
	l.ticks = true
}

// remove takes e out of the queue, if it is there.
func (l *elders) remove(e *elder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(e)
}

func (l *elders) removeLocked(e *elder) {
	if e.who == nil {
		return
	}
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	*e = elder{}
}

// tick tells those that are due at now, and sets the timer for the next one.
func (l *elders) tick(now time.Time) {
	if !l.g.enter() {
		return
	}
	defer l.g.wg.Done()
	var told []ager
	l.mu.Lock()
	l.ticks = false
	for l.first != nil {
		left := l.age - now.Sub(l.first.since)
		if left <= 0 && len(told) < elderTurn {
			told = append(told, l.first.who)
			l.removeLocked(l.first)
			continue
		}
		l.armLocked(max(left, elderPause))
		break
	}
	l.mu.Unlock()
	for _, who := range told {
		who.aged()
	}
}

// stop tells all who wait, whatever their age, and lets nobody join any more.
func (l *elders) stop() {
	l.mu.Lock()
	l.stopped = true
	if l.timer != nil {
		l.timer.Stop()
	}
	var told []ager
	for l.first != nil {
		told = append(told, l.first.who)
		l.removeLocked(l.first)
	}
	l.mu.Unlock()
	for _, who := range told {
		who.aged()
	}
}

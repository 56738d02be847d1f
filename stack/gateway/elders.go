package gateway

import (
	"sync"
	"time"
)

// elders wait until they are of an age that is the same for all of them, so that the one that came first is always the next: one
// timer and a list serve any number, and coming and going costs no allocation and no change of a timer. While some come and go all the
// time the timer fires once in that age; when none is left it ends by itself.
type elders struct {
	g   *Gateway
	age time.Duration

	mu          sync.Mutex
	first, last *elder      // guarded by mu
	timer       *time.Timer // guarded by mu; nil before the first
	ticks       bool        // guarded by mu; the timer runs
	stopped     bool        // guarded by mu
}

// elder is a place among elders, and part of who waits. It is guarded by their mu.
type elder struct {
	who        ager // nil: it does not wait
	prev, next *elder
	since      time.Time
}

// ager is told once that it is of age. No lock of elders is held then.
type ager interface{ aged() }

// elderTurn is how many are told before others have their turn, and elderPause what the rest waits.
const (
	elderTurn  = 64
	elderPause = time.Millisecond
)

// add notes that who waits from now on. It reports false when the gateway closes.
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

// remove is called when e waits no more; it may be called again.
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

// tick tells those that are of age at now, and comes back when the next one is.
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

// stop tells all, and lets no more wait.
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

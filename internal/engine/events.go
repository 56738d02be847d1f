package engine

import (
	"slices"
	"sync"

	"github.com/moby/moby/api/types/events"

	"github.com/usernet/usernet/cnm"
)

const (
	// keptEvents is how many are kept for who asks for the past, as many as Docker keeps.
	keptEvents = 256
	// queuedEvents is how far a reader may fall behind before it is let go.
	queuedEvents = 1024
)

// eventLog keeps the latest events and hands new ones to readers. It never waits for one.
type eventLog struct {
	mu      sync.Mutex // guards what follows
	past    []events.Message
	readers map[chan events.Message]struct{} // nil after close
}

func newEventLog() *eventLog {
	return &eventLog{readers: make(map[chan events.Message]struct{})}
}

func (l *eventLog) add(m events.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.past) == keptEvents {
		l.past = slices.Delete(l.past, 0, 1)
	}
	l.past = append(l.past, m)
	for c := range l.readers {
		select {
		case c <- m:
		default:
			delete(l.readers, c)
			close(c)
		}
	}
}

// read returns what is kept and all that follows, without a gap or a double.
func (l *eventLog) read() (past []events.Message, live <-chan events.Message, cancel func()) {
	c := make(chan events.Message, queuedEvents)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readers == nil {
		close(c)
		return slices.Clone(l.past), c, func() {}
	}
	l.readers[c] = struct{}{}
	return slices.Clone(l.past), c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, ok := l.readers[c]; ok {
			delete(l.readers, c)
			close(c)
		}
	}
}

func (l *eventLog) listeners() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers)
}

func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.readers {
		close(c)
	}
	l.readers = nil
}

// Events implements api.Backend.
func (e *Engine) Events() (past []events.Message, live <-chan events.Message, cancel func()) {
	past, live, cancel = e.events.read()
	e.watchUnmanaged()
	return past, live, cancel
}

func message(ev cnm.Event) events.Message {
	return events.Message{
		Type: events.Type(ev.Type), Action: events.Action(ev.Action),
		Actor: events.Actor{ID: ev.ID, Attributes: ev.Attributes},
		Scope: string(cnm.ScopeLocal), Time: ev.Time.Unix(), TimeNano: ev.Time.UnixNano(),
	}
}

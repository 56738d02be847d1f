package control

import (
	"time"

	"github.com/usernet/usernet/internal/datapath"
)

// Interfaces that go.
//
// A container that ends, and a disconnect, take the interface away first and detach its Endpoint then; the datapath
// tells of every one. Worth a warning is only the interface whose Endpoint stays: somebody in the sandbox has removed
// it, and no packet gets to the Endpoint any more.

const (
	// fallenGrace is how long a detach may come after its interface has gone.
	fallenGrace = time.Second
	// maxFallen bounds those that are watched; more at a time are a container of very many legs, or a hostile datapath.
	maxFallen = 64
)

// fallen are the interfaces that have gone lately. The supervisor's goroutine owns it but for the channel.
type fallen struct {
	news  chan datapath.Event
	list  []datapath.Event
	timer *time.Timer
}

func newFallen() fallen {
	t := time.NewTimer(0)
	t.Stop()
	return fallen{news: make(chan datapath.Event, maxFallen), timer: t}
}

// event runs on the goroutine that reads the process's socket.
func (s *supervisor) event(e datapath.Event) {
	if e.Kind == datapath.EventEndpointDown {
		select {
		case s.fallen.news <- e:
		default: // as many are told of already
		}
	} else {
		s.log.Warn("datapath event", "event", e.Kind, "network", e.Network, "endpoint", e.ID, "cause", e.Cause)
	}
	if s.c.cfg.Event != nil {
		s.c.cfg.Event(e)
	}
}

// fell begins to watch what becomes of the Endpoint of an interface that has gone.
func (s *supervisor) fell(e datapath.Event) {
	s.log.Debug("interface gone", "network", e.Network, "endpoint", e.ID, "cause", e.Cause)
	if s.dropFallen(e) {
		return
	}
	if len(s.fallen.list) >= maxFallen {
		return
	}
	s.fallen.list = append(s.fallen.list, e)
	if len(s.fallen.list) == 1 {
		s.fallen.timer.Reset(s.c.cfg.grace())
	}
}

// warnFallen says which Endpoints have lost their interfaces for good.
func (s *supervisor) warnFallen() {
	for _, e := range s.fallen.list {
		if _, err := s.want.endpoint(e.Network, e.ID); err == nil {
			s.log.Warn("a sandbox has lost its interface; connect it anew", "network", e.Network, "endpoint", e.ID, "cause", e.Cause)
		}
	}
	s.fallen.list = nil
}

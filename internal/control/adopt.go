package control

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/datapath"
)

// Adoption.
//
// A datapath with a Socket outlives a Control that dies, and goes on moving packets. The first launch of the next
// Control looks for it before it starts one, and reads its inventory. From then on the owners of Networks and Endpoints
// say what is wanted, as they would to an empty process; what is there already is claimed and costs no request, so no
// packet and no flow is lost (datapath.Inventory). Whatever nobody has claimed after claimGrace belonged to
// who died meanwhile, and is removed. An Endpoint whose interface has gone goes at once, with its ports:
// its owner will not come, and others may want the ports.
//
// A Control that is closed leaves its process to the next one in the same way, when there is an Endpoint that would
// miss it.

// claimGrace is how long owners may take to come back: shims reconnect within seconds.
const claimGrace = 30 * time.Second

// unclaimed is what an adopted process holds and nobody has asked for yet. The supervisor owns it.
type unclaimed struct {
	*datapath.Inventory // nil when the process is not adopted, or everything was settled
	timer               *time.Timer
}

func newUnclaimed() unclaimed {
	t := time.NewTimer(0)
	t.Stop()
	return unclaimed{timer: t}
}

func (u *unclaimed) clear() {
	u.Inventory = nil
	u.timer.Stop()
}

// adopt returns the process that an earlier Control has left, nil when there is none to adopt. Only the first process
// can be one: later ones follow upon the death of the one before.
func (s *supervisor) adopt(cfg datapath.Config) *datapath.Process {
	if cfg.Socket == "" || s.adopted {
		return nil
	}
	s.adopted = true
	p, inv, err := datapath.Adopt(s.ctx, cfg)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil
	default:
		s.log.Warn("starting another datapath", "err", err)
		return nil
	}
	s.log.Info("datapath adopted", "pid", p.PID(), "holds", inv.Len())
	s.unclaimed.Inventory = inv
	grace := s.c.cfg.claimGrace
	if grace == 0 {
		grace = claimGrace
	}
	s.unclaimed.timer.Reset(grace)
	// Nobody has told it of changes since its Control died.
	s.noteChange()
	return p
}

// dropUnclaimed takes away what nobody has claimed.
func (s *supervisor) dropUnclaimed() {
	if n := s.unclaimed.Len(); n > 0 {
		s.log.Info("removing what nobody has claimed", "things", n)
	}
	rest := s.unclaimed.Rest()
	s.unclaimed.clear()
	s.tellAll(rest)
}

// dropFallen takes away an Endpoint whose interface has gone, and reports whether nobody had claimed it.
func (s *supervisor) dropFallen(e datapath.Event) bool {
	rs := s.unclaimed.Drop(e.Network, e.ID)
	s.tellAll(rs)
	return len(rs) > 0
}

// tellAll tells the datapath what is so, whatever it answers.
func (s *supervisor) tellAll(rs []datapath.Request) {
	for _, r := range rs {
		if err := s.ask(r); err != nil && !errors.Is(err, ErrClosed) {
			s.logRefusal(r, err)
		}
	}
}

// missed reports whether the process is to go on without this Control.
func (s *supervisor) missed() bool {
	if s.c.cfg.Datapath.Socket == "" {
		return false
	}
	for _, n := range s.want.networks {
		if len(n.endpoints) > 0 {
			return true
		}
	}
	return s.unclaimed.Len() > 0
}

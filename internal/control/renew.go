package control

import "time"

// Renewal.
//
// A process that has carried many Endpoints stays larger than a fresh one when they have gone: the runtime keeps what it
// has made of each goroutine and of each descriptor that was waited for, and the heap is full of holes. After 1 000
// Networks of two Endpoints that is 9 MiB. So a process that has carried many, and has had no Network for a while, is
// replaced by a fresh one. The fresh one has been told all there is before the old one is ended, and there is a process
// at any time, so whoever comes next is not kept waiting for one. There is no flow that could be lost.

const (
	// renewCrowd is how many Endpoints at a time it takes for what they leave behind to be worth a start: a third
	// of a MiB.
	renewCrowd = 64
	// renewDelay is how long there must be no Network before. Who removes many often makes many others next.
	renewDelay = 5 * time.Second
)

// renewal decides when the process is replaced by a fresh one. The supervisor owns it.
type renewal struct {
	crowd int           // how many Endpoints are many
	delay time.Duration // without a Network
	most  int           // Endpoints that the process has carried at a time
	timer *time.Timer   // runs while there is no Network after many Endpoints
}

func newRenewal(cfg *Config) renewal {
	r := renewal{crowd: renewCrowd, delay: renewDelay}
	if cfg.renewCrowd > 0 {
		r.crowd, r.delay = cfg.renewCrowd, cfg.renewDelay
	}
	r.timer = time.NewTimer(0)
	r.timer.Stop()
	return r
}

// started is told how much a new process was given.
func (r *renewal) started(endpoints, networks int) {
	r.most = endpoints
	r.networks(networks)
}

// attached is told how many Endpoints there are after one more has come.
func (r *renewal) attached(endpoints int) { r.most = max(r.most, endpoints) }

// networks is told how many there are after one has come or gone.
func (r *renewal) networks(n int) {
	if n == 0 && r.most >= r.crowd {
		r.timer.Reset(r.delay)
	} else {
		r.timer.Stop()
	}
}

// renew replaces the process, which has had no Network for a while. A failure is the end of the process: the next one is
// started as after any other end.
func (s *supervisor) renew() {
	if s.unclaimed.Len() > 0 {
		s.renewal.timer.Reset(s.renewal.delay) // what nobody has claimed may yet be
		return
	}
	old := s.proc
	s.log.Info("nothing is left of many endpoints; starting a fresh datapath", "pid", old.PID())
	if err := s.launch(); err != nil && s.ctx.Err() == nil {
		s.log.Error("start fresh datapath", "err", err)
		s.proc.Kill()
	}
	if s.proc == old {
		return
	}
	if err := old.Close(); err != nil {
		s.log.Warn("close datapath", "err", err)
	}
}

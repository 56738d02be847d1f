package fdb

import (
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// slowTable is Table written the obvious way: a list that is searched, no atomics, no bounds kept.
type slowTable struct {
	max     int
	timeout time.Duration
	list    []slowEntry
}

type slowEntry struct {
	mac    l2.MAC
	port   int
	static bool
	seen   time.Time
}

func (s *slowTable) find(mac l2.MAC) int {
	for i := range s.list {
		if s.list[i].mac == mac {
			return i
		}
	}
	return -1
}

func (s *slowTable) keep(f func(slowEntry) bool) (dropped int) {
	var kept []slowEntry
	for _, e := range s.list {
		if f(e) {
			kept = append(kept, e)
		}
	}
	dropped = len(s.list) - len(kept)
	s.list = kept
	return dropped
}

func (s *slowTable) count(port int) (n int) {
	for _, e := range s.list {
		if e.port == port {
			n++
		}
	}
	return n
}

func (s *slowTable) resolve(mac l2.MAC) (int, bool) {
	if i := s.find(mac); i >= 0 {
		return s.list[i].port, true
	}
	return 0, false
}

func (s *slowTable) age(now time.Time) int {
	return s.keep(func(e slowEntry) bool { return e.static || now.Sub(e.seen) < s.timeout })
}

func (s *slowTable) mapTo(now time.Time, mac l2.MAC, port, limit int) Outcome {
	if mac.IsMulticast() || mac.IsZero() {
		return Invalid
	}
	if i := s.find(mac); i >= 0 {
		e := &s.list[i]
		if e.port == port {
			// Table writes the time of use at most once a second.
			if now.Sub(e.seen) >= refreshEvery {
				e.seen = now
			}
			return Known
		}
		if e.static || now.Sub(e.seen) < s.timeout {
			return Conflict
		}
		s.age(now)
	}
	if s.count(port) >= limit || len(s.list) >= s.max {
		s.age(now)
	}
	if s.count(port) >= limit {
		return PortFull
	}
	if len(s.list) >= s.max {
		return TableFull
	}
	s.list = append(s.list, slowEntry{mac: mac, port: port, seen: now})
	return Learned
}

func (s *slowTable) addStatic(mac l2.MAC, port int) bool {
	if mac.IsMulticast() || mac.IsZero() {
		return false
	}
	i := s.find(mac)
	if i >= 0 && s.list[i].static {
		return s.list[i].port == port
	}
	if i < 0 && len(s.list) >= s.max {
		return false
	}
	s.keep(func(e slowEntry) bool { return e.mac != mac })
	s.list = append(s.list, slowEntry{mac: mac, port: port, static: true})
	return true
}

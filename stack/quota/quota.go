// Package quota divides what a process has only so much of among those that want it.
//
// # Theory of operation
//
// A Pool is a number of equal things: descriptors for flows, queries in flight. Each holder, a Network, has a
// Share of it and takes and gives single things. Nothing is set aside for anybody: the bound of a holder
// follows what is free, as in a switch whose ports share their packet memory (Choudhury and Hahne, "Dynamic
// queue length thresholds", 1998):
//
//	a holder may take another while  held < weight × (free - kept)
//
// So a holder alone gets weight/(weight+1) of the Pool and n greedy ones weight/(n×weight+1) each, when they come
// together; one that comes when others are full gets the same part of what they left. What a holder has is never taken
// away: a greedy one only gets no more until others have caught up.
//
// The parts of what was left become small. Therefore a 32nd of the Pool is kept for holders that have
// nearly nothing, a 512th of it: sixteen newcomers find room beside any number of greedy holders.
package quota

import (
	"math"
	"sync"
)

const (
	// weight is how many times what is free one holder may have: 16/17 of the Pool for one alone, 16/33 each for
	// two. A lower one would keep more back from a Network that is alone, as most are: with 8 one of a process with
	// 20 000 descriptors had less than 10 000 TCP flows.
	weight = 16
	// keptPart and smallPart of the Pool are what is kept, and what a holder may have of that.
	keptPart, smallPart = 32, 512
)

// Pool is a number of things that holders share. It is safe for concurrent use.
type Pool struct {
	total, kept, small int

	mu   sync.Mutex // a leaf; guards used and the held of every Share
	used int
}

// NewPool returns a Pool of total things; zero or less means that there is no bound.
func NewPool(total int) *Pool {
	if total <= 0 {
		total = math.MaxInt / (2 * weight)
	}
	return &Pool{total: total, kept: total / keptPart, small: max(1, total/smallPart)}
}

// Used is how many things are taken.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Share returns a new holder's part, which is empty. A nil Pool gives a Share without a bound.
func (p *Pool) Share() *Share {
	if p == nil {
		p = NewPool(0)
	}
	return &Share{pool: p}
}

// Share is one holder's part of a Pool.
type Share struct {
	pool *Pool
	held int // guarded by pool.mu
}

// Take takes one thing, or reports false. all is how many all holders then have.
func (s *Share) Take() (all int, ok bool) {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.total - p.used
	if free <= 0 || s.held >= p.small && s.held >= weight*(free-p.kept) {
		return p.used, false
	}
	s.held++
	p.used++
	return p.used, true
}

// Give gives one thing back.
func (s *Share) Give() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if s.held == 0 {
		panic("quota: more given than taken")
	}
	s.held--
	s.pool.used--
}

// Held is how many things the holder has.
func (s *Share) Held() int {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.held
}

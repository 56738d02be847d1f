package datapath

import (
	"runtime/debug"

	"github.com/usernet/usernet/internal/trim"
)

const (
	// gcPercent lets the heap grow to five times what is live before it is collected. What is live
	// without traffic is 2 to 3 MiB, for which the default would collect every 4 MiB of allocation,
	// hundreds of times a second at 10 Gbit/s; the price is at most 20 MiB.
	gcPercent = 400
	// gcPercentMany is for a process with so many Networks that the heap is large without traffic: at 1 000 of them
	// the same factor would be 300 MiB. The default collects every 70 MiB then, rarely enough.
	gcPercentMany = 100
	// fewNetworks is how many pay gcPercent; twice as many pay the half of it beyond gcPercentMany, and so on.
	fewNetworks = 16
	// memoryLimit is where the collector starts to work harder instead of growing: four times what flows among few may
	// buffer together, 256 MiB.
	memoryLimit = 1 << 30

	// trimNetworks is how many Networks it takes for their memory, 30 KiB each and 100 more where there was TCP, to be
	// worth a collection.
	trimNetworks = 16
)

// memory keeps what the process has of the host near what it needs, as Networks come and go. Its methods belong
// to one goroutine, trim.Run to another.
type memory struct {
	percent    int
	trim       *trim.Trimmer
	setPercent func(int) int
}

func newMemory() *memory {
	return &memory{percent: gcPercent, trim: trim.New(trimNetworks, nil), setPercent: debug.SetGCPercent}
}

// percentFor is the collector's setting for a number of Networks. It has few steps, because each change of it
// stops the process for a moment.
func percentFor(networks int) int {
	more := gcPercent - gcPercentMany
	for n := fewNetworks; n < networks; n *= 2 {
		more /= 2
	}
	return gcPercentMany + more
}

// added is told of a Network more.
func (m *memory) added(networks int) { m.set(networks) }

// removed is told of a Network less.
func (m *memory) removed(networks int) {
	m.set(networks)
	m.trim.Gone()
}

func (m *memory) set(networks int) {
	if p := percentFor(networks); p != m.percent {
		m.percent = p
		m.setPercent(p)
	}
}

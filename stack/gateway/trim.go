package gateway

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

const (
	// trimFlows is how many flows it takes for their memory, 5 KiB each, to be worth a collection.
	trimFlows = 512
	// trimDelay lets the rest of many flows end, and netstack forget them.
	trimDelay = 5 * time.Second
)

// endFlow counts a flow that has ended, and has memory given back to the host when three in four have.
//
// The runtime frees memory only after a collection, which it starts when the heap grows and otherwise every two
// minutes. Where flows end and nothing follows, the heap does not grow: a datapath that ten thousand flows have
// left would keep 200 MiB (RX-01).
func (g *Gateway) endFlow(owner l2.MAC) {
	if g.flows.done(owner) && g.trimming.CompareAndSwap(false, true) {
		g.wg.Go(g.trim) // a flow's own goroutine is counted still, so Close has not waited yet
	}
}

// trim gives memory back once, unless the gateway is closed before.
func (g *Gateway) trim() {
	t := time.NewTimer(trimDelay)
	defer t.Stop()
	select {
	case <-t.C:
		g.trimming.Store(false) // flows that end from now on want another
		// What has a finalizer (every socket) or lies in a pool is freed by the second collection.
		runtime.GC()
		debug.FreeOSMemory()
	case <-g.ctx.Done():
	}
}

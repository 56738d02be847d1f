package rootlesstests

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// maxHandshakes is how many connections of a container may be in the making.
const maxHandshakes = 256

// HC-23: a flood of SYNs to a black hole fills the container's own quota, and nothing else.
func TestHC23(t *testing.T) {
	r := rig.Start(t)
	flooder, other := r.Run(t), r.Run(t)
	echo := serveEcho(t, r.X1, rig.X1v4)
	link, gateway := flooder.OpenPacket(t, rig.DevEth0), gatewayMAC(t, flooder)
	datapath := flooder.Datapath(t)

	const span = 5 * time.Second
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	var sent atomic.Int64
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			syn := packettest.TCP(at(rig.SandboxAddr4, uint16(1024+i%60000)), at(rig.Nowhere4, uint16(80+i/60000)), packettest.SYN, uint32(i), 0, nil)
			// A queue that is full is part of a flood.
			if link.Send(packettest.Bytes(packettest.Frame(link.MAC, gateway, syn))) == nil {
				sent.Add(1)
			}
		}
	})
	defer flood.Wait()
	var took []time.Duration
	most := 0
	for ctx.Err() == nil {
		began := time.Now()
		c := other.DialTCP(t, echo)
		took = append(took, time.Since(began))
		wantSmallEcho(t, c)
		c.Close()
		if len(took)%10 != 1 { // listing takes a core's time
			continue
		}
		most = max(most, strings.Count(r.H.Run(t, "ss", "-tnH", "state", "syn-sent", "dst", rig.Nowhere4.String()), "\n"))
	}
	slices.Sort(took)
	t.Logf("%d SYNs, %d in the making at most, %d connects of another sandbox: p99 %v", sent.Load(), most, len(took), took[len(took)*99/100])
	// Each of them waits for a whole second when one SYN of its own is lost, which is what a flood that holds it up would do.
	if p50 := took[len(took)/2]; p50 >= busy*time.Second {
		t.Errorf("another sandbox needed %v to connect (median)", p50)
	}
	// Those that had to give way and those in their place may be in one listing, which takes its time.
	if limit := maxHandshakes * 5 / 4; most > limit || most < maxHandshakes/2 {
		t.Errorf("%d connections were in the making, want some and at most %d", most, limit)
	}
	flood.Wait()
	// A connection of its own pushes out what has waited for a second.
	began := time.Now()
	var c net.Conn
	rig.WaitFor(t, rig.Patience, "a connect of the container itself", func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		c, err = flooder.Dial(ctx, "tcp", echo)
		return err == nil
	})
	c.Close()
	t.Logf("the flooder itself connects %v after its flood", time.Since(began))
	wantAlive(t, r, flooder, datapath)
}

// HC-24: handshakes that the container never ends hold a host's socket for a while, and no other connection up.
func TestHC24(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	var open, ever atomic.Int64
	server := serveTCP(t, r.X1, rig.X1v4, func(c *net.TCPConn) {
		open.Add(1)
		ever.Add(1)
		defer open.Add(-1)
		_, _ = c.Read(make([]byte, 1)) // until it is closed
	})
	echo := serveEcho(t, r.X1, rig.X1v4)
	raw := newRawTCP(t, sb)
	for _, n := range []int{10, 300, 3000} {
		before, start := ever.Load(), time.Now()
		for i := range n {
			c := raw.open(rig.SandboxAddr4, server)
			c.send(c.segment(packettest.SYN, 0, nil, nil))
			if i%100 == 0 {
				pace(t, raw.link, raw.gateway)
			}
		}
		pace(t, raw.link, raw.gateway)
		rig.WaitFor(t, rig.Patience, "host sockets of the squatters", func() bool { return ever.Load() > before })
		// What has waited for a second gives way, so each second that we took makes room for as many more.
		limit := maxHandshakes * (1 + int64(time.Since(start)/time.Second))
		if n < maxHandshakes {
			if !raw.open(rig.SandboxAddr4, echo).connect(nil, time.Second) {
				t.Errorf("with %d squatters another connection does not come about", n)
			}
		}
		began := time.Now()
		rig.WaitFor(t, 17*time.Second, "end of the squatters' host sockets", func() bool { return open.Load() == 0 })
		t.Logf("%d SYNs: %d connections to the server, gone after %v", n, ever.Load()-before, time.Since(began))
		if most := ever.Load() - before; most > limit {
			t.Errorf("%d SYNs made %d connections, want at most %d", n, most, limit)
		}
		if !raw.open(rig.SandboxAddr4, echo).connect(nil, time.Second) {
			t.Errorf("after %d squatters a connection does not come about", n)
		}
	}
	if now := sb.Datapath(t); now != datapath {
		t.Errorf("datapath was process %d and is now %d", datapath, now)
	}
}

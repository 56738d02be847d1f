package tap_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/taptest"
)

// conversation is what one flow has sent and what came of it.
type conversation struct {
	frame func(payload []byte) l2.Frame
	sent  uint32

	mu       sync.Mutex
	received uint32 // guarded by mu
	broken   string // guarded by mu; the first thing that was wrong
}

// conversations of a container with the outside, of each kind there is.
func conversations(n int) (all []*conversation) {
	src, gw := packettest.NewStation(1), packettest.NewStation(2)
	for i := range n {
		port := uint16(1000 + i)
		c := new(conversation)
		c.frame = func(payload []byte) l2.Frame {
			var packet []byte
			switch i % 4 {
			case 0:
				packet = packettest.UDP(netip.AddrPortFrom(src.IP4, port), netip.AddrPortFrom(gw.IP4, 53), payload)
			case 1:
				packet = packettest.UDP(netip.AddrPortFrom(src.IP6, port), netip.AddrPortFrom(gw.IP6, 53), payload)
			case 2:
				packet = packettest.TCP(netip.AddrPortFrom(src.IP4, port), netip.AddrPortFrom(gw.IP4, 80), packettest.ACK, 1, 1, payload)
			default:
				packet = packettest.Echo(src.IP4, gw.IP4, port, 1, payload) // pings of one container are one flow to us
			}
			return packettest.Frame(src.MAC, gw.MAC, packet)
		}
		all = append(all, c)
	}
	return all
}

// got takes one payload of c: its number, c's, and a length of bytes that follow from the number.
func (c *conversation) got(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	number := binary.BigEndian.Uint32(payload[4:])
	if number != c.received && c.broken == "" {
		c.broken = fmt.Sprintf("frame %d came when %d was next", number, c.received)
	}
	for _, b := range payload[8:] {
		if b != byte(number) && c.broken == "" {
			c.broken = fmt.Sprintf("frame %d has bytes of another", number)
		}
	}
	c.received++
}

// TestLanesKeepOrder: with any number of lanes, which changes while frames come, every frame arrives once, whole, and after those
// that its flow had sent before.
func TestLanesKeepOrder(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			f, info, far, err := taptest.Socket("lanes", 1500, true)
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			var drops drop.Counters
			d, err := tap.Open(f, info, tap.Options{Drops: &drops})
			if err != nil {
				t.Fatal(err)
			}
			var lanes atomic.Int32
			lanes.Store(1)
			d.SetLanes(func() int { return int(lanes.Load()) })
			all := conversations(40)
			const total = 3000
			var received atomic.Int32
			done := make(chan struct{})
			var run sync.WaitGroup
			run.Go(func() {
				err := d.Run(func(fs []l2.Frame) {
					for i := range fs {
						p := payloadOf(fs[i].L3[0])
						if fs[i].Buf != nil && p[8]%2 == 0 {
							fs[i].Buf.Take() // kept by who was given it
						}
						all[binary.BigEndian.Uint32(p)].got(p)
						if received.Add(1) == total {
							close(done)
						}
					}
				}, nil)
				if err != nil {
					t.Errorf("run: %v", err)
				}
			})
			for range total {
				if rng.IntN(100) == 0 {
					lanes.Store([]int32{1, 2, 3, 8, 16}[rng.IntN(5)])
				}
				i := rng.IntN(len(all))
				size := 9 + rng.IntN(100)
				if rng.IntN(10) == 0 {
					size = 2000 + rng.IntN(20000) // some fill a slot, others have a block of their own
				}
				payload := make([]byte, size)
				binary.BigEndian.PutUint32(payload, uint32(i))
				binary.BigEndian.PutUint32(payload[4:], all[i].sent)
				for j := 8; j < size; j++ {
					payload[j] = byte(all[i].sent)
				}
				all[i].sent++
				if err := far.Send(all[i].frame(payload)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-done:
			case <-time.After(20 * time.Second):
			}
			d.Close()
			run.Wait()
			for i, c := range all {
				if c.received != c.sent || c.broken != "" {
					t.Errorf("flow %d: %d of %d frames arrived; %s", i, c.received, c.sent, c.broken)
				}
			}
			if s := drops.Snapshot(); len(s) > 0 {
				t.Errorf("dropped: %v", s)
			}
		})
	}
}

// payloadOf is what is behind the headers of a packet of a conversation.
func payloadOf(packet []byte) []byte {
	at, proto := 20, packet[9]
	if packet[0]>>4 == 6 {
		at, proto = 40, packet[6]
	}
	if proto == 6 {
		return packet[at+20:]
	}
	return packet[at+8:]
}

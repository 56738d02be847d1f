//go:build !race

package gateway

import (
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// nowhere is a service that forgets.
type nowhere struct{}

func (nowhere) Input(*ip.Packet) {}
func (nowhere) Flush()           {}

// TestFrameInstructions bounds what the gateway itself executes for a frame, at half as much again as was counted.
// netstack, which hands TCP from goroutine to goroutine, is bounded by what it allocates and sends (TestRelayAllocations).
func TestFrameInstructions(t *testing.T) {
	datagram := packettest.UDP(ap("10.0.2.100:1000"), ap("198.51.100.1:5000"), make([]byte, 1000))
	answer := packettest.UDP(ap("198.51.100.1:5000"), ap("10.0.2.100:1000"), make([]byte, 1000))
	frames := []l2.Frame{packettest.Frame(containerMAC, testNet.GatewayMAC, datagram)}
	for _, row := range []struct {
		name string
		do   func(g *Gateway)
		most int // instructions
	}{
		{"from the container", func(g *Gateway) { g.Output(frames) }, 3060},                                // counted: 2044
		{"to the container", func(g *Gateway) { g.EmitIP(container4, l2.VNet{}, [][]byte{answer}) }, 1350}, // 894
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t)
			forget := func([]l2.Frame) {}
			if err := b.gw.Use(Services{Link: forget, UDP: nowhere{}}); err != nil {
				t.Fatal(err)
			}
			if n := proctest.Instructions(t, func() { row.do(b.gw) }); n > row.most {
				t.Errorf("%d instructions, %d at most were to be", n, row.most)
			}
		})
	}
}

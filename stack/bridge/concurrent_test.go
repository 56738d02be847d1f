package bridge_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/l2"
)

// Ports come and go while frames flow, and an Output answers from within; run with -race.
func TestConcurrentUse(t *testing.T) {
	br := bridge.New(bridge.Options{})
	gateway := &packettest.Port{Name: "gw"}
	gwPort, err := br.Attach(gateway, configs()[0])
	if err != nil {
		t.Fatal(err)
	}
	gateway.OnOutput = func(fs []l2.Frame) {
		for _, f := range fs {
			gwPort.Input(frames(packettest.Frame(gw.MAC, f.Header.Src(), packettest.Echo(gw.IP4, a.IP4, 1, 1, nil))))
		}
	}
	var wg sync.WaitGroup
	for n := range byte(4) {
		wg.Go(func() {
			s := packettest.NewStation(100 + n)
			for range 200 {
				p := &packettest.Port{Name: fmt.Sprint(n)}
				c := bridge.PortConfig{ID: p.Name, Subnets: nets}
				h, err := br.Attach(p, c)
				if err != nil {
					t.Error(err)
					return
				}
				h.Input(frames(arpFor(s, gw), ping(s, gw)))
				if len(p.Frames()) == 0 {
					t.Errorf("port %d got no answer", n)
				}
				br.Detach(h)
				if len(p.Frames()) < 2 {
					t.Errorf("port %d got %d answers, want 2", n, len(p.Frames()))
				}
			}
		})
	}
	wg.Wait()
	if n := len(br.Ports()); n != 1 {
		t.Errorf("%d ports left, want the gateway", n)
	}
}

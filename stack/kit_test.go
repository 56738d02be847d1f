package stack_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap/taptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testNet = spec.Network{
	Name: "test", MTU: 1500,
	Subnet4: netip.MustParsePrefix("10.0.2.0/24"), Gateway4: netip.MustParseAddr("10.0.2.2"), DNS4: netip.MustParseAddr("10.0.2.3"),
	Subnet6: netip.MustParsePrefix("fd00::/64"), Gateway6: netip.MustParseAddr("fd00::2"), DNS6: netip.MustParseAddr("fd00::3"),
	GatewayMAC: l2.MAC{0x52, 0x55, 0x0a, 0, 2, 2},
	Policy:     spec.Policy{HostLoopback: true},
}

func newNetwork(t *testing.T, o stack.Options) *stack.Network {
	t.Helper()
	n, err := stack.NewHost(stack.HostOptions{}).New(testNet, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// container is the far end of an attached TAP.
type container struct {
	packettest.Station
	t   *testing.T
	far *taptest.SocketFar
	got chan l2.Frame // what came in; closed at the end

	reader sync.WaitGroup
}

func endpointSpec(name string, s packettest.Station) spec.Endpoint {
	return spec.Endpoint{ID: name, Interface: "eth0", MAC: s.MAC, Addrs: []netip.Addr{s.IP4, s.IP6}, Strict: true, Names: []string{name}}
}

// attach gives the network a container with that number. The TAP is a socket pair, with the real Device on it.
func attach(t *testing.T, n *stack.Network, name string, number byte, vnet bool) *container {
	t.Helper()
	f, info, far, err := taptest.Socket(name, testNet.MTU, vnet)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{Station: packettest.NewStation(number), t: t, far: far, got: make(chan l2.Frame, 1000)}
	if err := n.Attach(endpointSpec(name, c.Station), f, info); err != nil {
		t.Fatal(err)
	}
	c.reader.Go(func() {
		defer close(c.got)
		for {
			f, err := far.Recv()
			if err != nil {
				return
			}
			select {
			case c.got <- f:
			default: // nobody looks
			}
		}
	})
	t.Cleanup(c.gone)
	return c
}

// gone is the end of the container.
func (c *container) gone() {
	c.far.Close()
	c.reader.Wait()
}

func (c *container) send(f l2.Frame) {
	c.t.Helper()
	if err := c.far.Send(f); err != nil {
		c.t.Errorf("send: %v", err)
	}
}

// toGateway sends a packet out of the network.
func (c *container) toGateway(p []byte) {
	c.t.Helper()
	c.send(packettest.Frame(c.MAC, testNet.GatewayMAC, p))
}

// next waits for a frame that match accepts.
func (c *container) next(what string, match func(f l2.Frame, p packettest.Decoded) bool) (l2.Frame, packettest.Decoded) {
	c.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f, ok := <-c.got:
			if !ok {
				c.t.Fatalf("TAP ended before %s came", what)
			}
			p, _ := packettest.Decode(f)
			if match(f, p) {
				return f, p
			}
		case <-timeout:
			c.t.Fatalf("no %s in 10 s", what)
		}
	}
}

func echoReply(id uint16) func(f l2.Frame, p packettest.Decoded) bool {
	return func(f l2.Frame, p packettest.Decoded) bool {
		b := packettest.Bytes(f)
		return p.Kind == 0 && p.Proto == packettest.ProtoICMP && binary.BigEndian.Uint16(b[len(b)-len(p.Payload)-4:]) == id
	}
}

// ping asks the gateway until it answers: where others send without end a frame may be lost.
func (c *container) ping(id uint16) {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		c.toGateway(packettest.Echo(c.IP4, testNet.Gateway4, id, 1, nil))
		for again := false; !again; {
			select {
			case f := <-c.got:
				if p, err := packettest.Decode(f); err == nil && echoReply(id)(f, p) {
					return
				}
			case <-tick.C:
				again = true
			}
		}
	}
	c.t.Fatal("no answer of the gateway in 10 s")
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

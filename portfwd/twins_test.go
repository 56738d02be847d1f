package portfwd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(exhaustedChild())
	}
	goleak.VerifyTestMain(m)
}

// dial is one call of Dialer.Forward.
type dial struct{ from, to netip.AddrPort }

// memDialer is the in-memory twin of the gateway's Dialer: containers are functions.
type memDialer struct {
	serve func(c *net.TCPConn) // what listens on every container port; nil refuses

	mu    sync.Mutex
	dials []dial
	ended int
}

var errRefused = errors.New("connection refused")

func (d *memDialer) Forward(ctx context.Context, c *net.TCPConn, from, to netip.AddrPort) error {
	d.mu.Lock()
	d.dials = append(d.dials, dial{from, to})
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.ended++
		d.mu.Unlock()
	}()
	defer c.Close()
	if d.serve == nil {
		c.SetLinger(0)
		return errRefused
	}
	stop := context.AfterFunc(ctx, func() {
		c.SetLinger(0)
		c.Close()
	})
	defer stop()
	d.serve(c)
	return ctx.Err()
}

// done is how many calls have ended.
func (d *memDialer) done() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

func (d *memDialer) calls() []dial {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.dials)
}

// echo sends back what comes until the client is done.
func echo(c *net.TCPConn) { io.Copy(c, c) }

// memEmitter is the in-memory twin of the gateway's Emitter, with containers that answer each
// datagram with its own payload when echo is set. Packets that are to be segmented are.
type memEmitter struct {
	fw   *Forwarder
	echo bool
	got  chan datagram
}

type datagram struct {
	from, to netip.AddrPort
	payload  string
	segment  int
}

func (e *memEmitter) EmitIP(dst netip.Addr, v l2.VNet, l3 [][]byte) bool {
	var p ip.Packet
	b := slices.Concat(l3...)
	sum, at, ok := ip.CompleteSum(v, [][]byte{b})
	if !ok {
		panic("partial checksum outside the packet")
	}
	b[at], b[at+1] = byte(sum>>8), byte(sum)
	if r := ip.ParsePacket(&p, b); r != drop.None || !p.VerifyTransport() || p.Dst != dst {
		panic("emitted a packet that does not parse: " + r.String())
	}
	src, dport, _ := p.Ports()
	payload, _ := p.UDPPayload()
	from, to := netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dport)
	if e.got != nil {
		e.got <- datagram{from, to, string(payload), int(v.GSOSize)}
	}
	if e.echo {
		e.input(to, from, payload, int(v.GSOSize))
		e.fw.Flush()
	}
	return true
}

// input is a datagram of a container.
func (e *memEmitter) input(from, to netip.AddrPort, payload []byte, segment int) bool {
	b := make([]byte, ip.UDPHeadersLen(from.Addr())+len(payload))
	n := ip.PutUDPHeaders(b, from, to, len(payload), ip.UDPOpts{Payload: payload})
	copy(b[n:], payload)
	var p ip.Packet
	if r := ip.ParsePacket(&p, b); r != drop.None {
		panic(r.String())
	}
	if segment > 0 {
		p.VNet = ip.UDPVNet(from.Addr(), segment)
	}
	return e.fw.InputUDP(&p)
}

var (
	gateway4 = addr("10.0.2.2")
	gateway6 = addr("fd00::2")
	both     = Target{Addr4: addr("10.0.2.100"), Addr6: addr("fd00::100")}
)

// rig is a Forwarder between the twins.
type rig struct {
	*Forwarder
	dialer *memDialer
	emit   *memEmitter
	drops  *drop.Counters
}

func newRig(t *testing.T, d *memDialer, e *memEmitter, l Limits) *rig {
	t.Helper()
	r := &rig{dialer: d, emit: e, drops: new(drop.Counters)}
	r.Forwarder = NewForwarder(Config{
		Dialer: d, Emit: e, Gateway4: gateway4, Gateway6: gateway6, Drops: r.drops, Limits: l,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64")},
	})
	if e != nil {
		e.fw = r.Forwarder
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

// publish binds the --publish value on the host and serves it; it returns the addresses to speak to.
func (r *rig) publish(t *testing.T, value string, to Target) []netip.AddrPort {
	t.Helper()
	specs, err := Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := Listen(specs, true)
	if err != nil {
		t.Fatal(err)
	}
	var at []netip.AddrPort
	for _, l := range ls {
		if err := r.Add(l.Spec.String(), l.Spec, l.File, to); err != nil {
			t.Fatal(err)
		}
		at = append(at, netip.AddrPortFrom(l.Spec.HostIP, l.Spec.HostPort))
	}
	return at
}

// eventually waits for ok, which another goroutine or the kernel is about to make true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still waiting: %s", what)
		}
	}
}

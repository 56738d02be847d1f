package cnm

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// slow is the twin of a Controller: two Networks' members with their addresses, by the rules alone.
type slow struct {
	members map[string]map[string]netip.Addr // address by sandbox by Network
	order   map[string][]string              // Networks of a sandbox in the order they came
}

var slowNets = map[string]netip.Addr{"n1": netip.MustParseAddr("10.1.0.2"), "n2": netip.MustParseAddr("10.2.0.2"), "n3": netip.MustParseAddr("10.3.0.2")}

// join gives the lowest free address, and reports whether there was one and the name was free.
func (m *slow) join(n, c string) bool {
	if _, twice := m.members[n][c]; twice {
		return false
	}
	a := slowNets[n]
	for range 5 { // a /29 has six, one is the gateway's
		taken := false
		for _, o := range m.members[n] {
			taken = taken || o == a
		}
		if !taken {
			m.members[n][c] = a
			m.order[c] = append(m.order[c], n)
			return true
		}
		a = a.Next()
	}
	return false
}

func (m *slow) leave(n, c string) bool {
	_, ok := m.members[n][c]
	delete(m.members[n], c)
	m.order[c] = slices.DeleteFunc(m.order[c], func(o string) bool { return o == n })
	return ok
}

func (m *slow) gone(c string) {
	for n := range m.members {
		m.leave(n, c)
	}
	delete(m.order, c)
}

// gateway is the Network of the default route: the first by name.
func (m *slow) gateway(c string) string {
	if len(m.order[c]) == 0 {
		return ""
	}
	return slices.Min(m.order[c])
}

// TestModel plays sandboxes that come, go, connect, disconnect and outlive daemons, with steps that fail now and
// then, against the slow twin.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := &play{r: newRig(t), boxes: make(map[string]*box), m: slow{members: make(map[string]map[string]netip.Addr), order: make(map[string][]string)}}
		for n, a := range slowNets {
			p.m.members[n] = make(map[string]netip.Addr)
			p.r.create(n, netip.PrefixFrom(a, 29).Masked().String())
		}
		rt.Repeat(map[string]func(*rapid.T){
			"run": p.run, "close": p.close, "connect": p.connect, "disconnect": p.disconnect, "restart": p.restart, "fail": p.fail,
			"shrink": func(*rapid.T) { p.r.c.Shrink() },
			"":       p.agree,
		})
		for _, b := range p.boxes {
			b.Close()
		}
	})
}

// play is one game.
type play struct {
	r     *rig
	m     slow
	boxes map[string]*box
	fails bool // the next change fails at one of its steps
}

func anyNet(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(rt, "network")
}
func anyBox(rt *rapid.T) string {
	return fmt.Sprint("c", rapid.IntRange(0, 7).Draw(rt, "container"))
}

// arm has a step of the next change fail, if that was drawn.
func (p *play) arm(rt *rapid.T) {
	if p.fails {
		p.r.c.failpoint = failpoint(rapid.IntRange(0, 6).Draw(rt, "step"), func() error { return errDisk })
	}
}

// disarm waits for what follows in the background, and reports whether a failure was to be expected.
func (p *play) disarm() (failing bool) {
	p.r.settled()
	p.r.c.failpoint, failing, p.fails = nil, p.fails, false
	return failing
}

func (p *play) fail(*rapid.T) { p.fails = true }

func (p *play) run(rt *rapid.T) {
	c, n := anyBox(rt), anyNet(rt)
	if p.boxes[c] != nil {
		return
	}
	p.arm(rt)
	b, err := p.r.tryRun(sandboxConf(c, n))
	failing := p.disarm()
	if err == nil {
		p.boxes[c] = b
	}
	if failing && err != nil {
		return
	}
	if want := p.m.join(n, c); want != (err == nil) {
		rt.Fatalf("run %s in %s: %v", c, n, err)
	}
}

func (p *play) close(rt *rapid.T) {
	c := anyBox(rt)
	if p.boxes[c] == nil {
		return
	}
	p.boxes[c].Close()
	p.r.setAlive(idOf(c), false)
	delete(p.boxes, c)
	p.m.gone(c)
}

func (p *play) connect(rt *rapid.T) {
	c, n := anyBox(rt), anyNet(rt)
	p.arm(rt)
	err := p.r.c.Connect(context.Background(), c, EndpointConfig{Network: n})
	if failing := p.disarm(); failing && err != nil {
		return
	}
	if want := p.boxes[c] != nil && p.m.join(n, c); want != (err == nil) {
		rt.Fatalf("connect %s to %s: %v", c, n, err)
	}
}

func (p *play) disconnect(rt *rapid.T) {
	c, n := anyBox(rt), anyNet(rt)
	p.arm(rt)
	err := p.r.c.Disconnect(context.Background(), n, c, false)
	if failing := p.disarm(); failing && err != nil {
		return
	}
	if want := p.boxes[c] != nil && p.m.leave(n, c); want != (err == nil) {
		rt.Fatalf("disconnect %s from %s: %v", c, n, err)
	}
}

// restart ends the daemon; some of the sandboxes die before the next one is there.
func (p *play) restart(rt *rapid.T) {
	for c, b := range p.boxes {
		if rapid.Bool().Draw(rt, "dies") {
			p.r.setAlive(b.conf.ID, false)
			delete(p.boxes, c)
			p.m.gone(c)
		}
	}
	p.r.restart()
	for c, b := range p.boxes {
		next, err := p.r.rejoin(b, nil)
		if err != nil {
			rt.Fatalf("rejoin %s: %v", c, err)
		}
		p.boxes[c] = next
	}
}

// agree compares the twins.
func (p *play) agree(rt *rapid.T) {
	p.r.settled()
	var boxes []*box
	for c, b := range p.boxes {
		boxes = append(boxes, b)
		info, err := p.r.c.Sandbox(c)
		if err != nil || len(info.Endpoints) != len(p.m.order[c]) {
			rt.Fatalf("%s has legs %+v, %v; want %v", c, info.Endpoints, err, p.m.order[c])
		}
		gateway := ""
		for i, e := range info.Endpoints {
			if n := p.m.order[c][i]; e.NetworkName != n || e.Addr4.Addr() != p.m.members[n][c] {
				rt.Fatalf("%s has %s in %s, want %s in %s", c, e.Addr4, e.NetworkName, p.m.members[n][c], n)
			}
			if e.Interface == b.ns.Routes().Default4.Dev {
				gateway = e.NetworkName
			}
		}
		if gateway != p.m.gateway(c) {
			rt.Fatalf("%s goes out by %q, want %q", c, gateway, p.m.gateway(c))
		}
	}
	if err := p.r.differ(boxes...); err != nil {
		rt.Fatal(err)
	}
}

package bridge_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/fdb"
	"github.com/usernet/usernet/stack/l2"
)

var (
	gw    = packettest.NewStation(2)
	a     = packettest.NewStation(100) // strict
	b     = packettest.NewStation(101) // strict
	g     = packettest.NewStation(150) // a guest that configures itself
	h     = packettest.NewStation(151) // another
	out4  = netip.MustParseAddr("198.51.100.9")
	out6  = netip.MustParseAddr("2001:db8::9")
	dns4  = netip.MustParseAddr("10.0.2.3")
	any6  = netip.IPv6Unspecified()
	nets  = []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64")}
	start = time.Unix(1_000_000, 0)
)

// world is a switch with a gateway gw, strict containers a and b, and guests g and h, all in memory.
type world struct {
	*bridge.Bridge
	result packettest.Result
	port   map[string]*bridge.Port
	out    map[string]*packettest.Port
	now    time.Time
}

func configs() []bridge.PortConfig {
	return []bridge.PortConfig{
		{ID: "gw", MAC: gw.MAC, Addrs: []netip.Addr{gw.IP4, gw.IP6, dns4}, Trusted: true, VNet: true},
		{ID: "a", MAC: a.MAC, Addrs: []netip.Addr{a.IP4, a.IP6}, Strict: true, VNet: true},
		{ID: "b", MAC: b.MAC, Addrs: []netip.Addr{b.IP4, b.IP6}, Strict: true, VNet: true},
		{ID: "g", Subnets: nets},
		{ID: "h", Subnets: nets, VNet: true},
	}
}

// newWorld attaches configs(), each changed by edit if that is not nil.
func newWorld(t testing.TB, edit func(*bridge.PortConfig)) *world {
	t.Helper()
	w := &world{port: map[string]*bridge.Port{}, out: map[string]*packettest.Port{}, now: start}
	w.result.Drops = new(drop.Counters)
	w.Bridge = bridge.New(bridge.Options{
		Drops: w.result.Drops,
		Now:   func() time.Time { return w.now },
		FDB:   fdb.Options{Timeout: 5 * time.Minute},
	})
	for _, c := range configs() {
		if edit != nil {
			edit(&c)
		}
		p := &packettest.Port{Name: c.ID}
		handle, err := w.Attach(p, c)
		if err != nil {
			t.Fatal(err)
		}
		w.port[c.ID], w.out[c.ID] = handle, p
		w.result.Ports = append(w.result.Ports, p)
	}
	return w
}

// send hands frames to the switch as the reader of a port does.
func (w *world) send(from string, frames ...l2.Frame) { w.port[from].Input(frames) }

// announce lets a guest's switch port learn its MAC.
func (w *world) announce(t testing.TB) {
	t.Helper()
	w.send("g", packettest.ARP(packettest.ARPRequest, g.MAC, g.IP4, l2.MAC{}, gw.IP4))
	w.send("h", packettest.ARP(packettest.ARPRequest, h.MAC, h.IP4, l2.MAC{}, gw.IP4))
	packettest.Run(t, &w.result, packettest.NoDrops())
	for _, p := range w.out {
		p.Clear()
	}
}

func ping(from, to packettest.Station) l2.Frame {
	return packettest.Frame(from.MAC, to.MAC, packettest.Echo(from.IP4, to.IP4, 1, 1, []byte("ping")))
}

func ping6(from, to packettest.Station) l2.Frame {
	return packettest.Frame(from.MAC, to.MAC, packettest.Echo(from.IP6, to.IP6, 1, 1, []byte("ping")))
}

func arpFor(from, to packettest.Station) l2.Frame {
	return packettest.ARP(packettest.ARPRequest, from.MAC, from.IP4, l2.MAC{}, to.IP4)
}

// A row is one thing that happens on the link.
type row struct {
	name  string
	from  string
	in    []l2.Frame
	check packettest.Check
}

func run(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.announce(t)
			w.send(r.from, r.in...)
			packettest.Run(t, &w.result, r.check)
		})
	}
}

func frames(f ...l2.Frame) []l2.Frame { return f }

// forwarded: the frame left by the port and by no other, unchanged.
func forwarded(port string, f l2.Frame) packettest.Check {
	others := []packettest.Check{packettest.OutOn(port, 1, packettest.Same(f)), packettest.NoDrops()}
	for _, c := range configs() {
		if c.ID != port {
			others = append(others, packettest.NoneOn(c.ID))
		}
	}
	return packettest.All(others...)
}

// flooded: the frame left by every port but the one it came in by.
func flooded(from string, f l2.Frame) packettest.Check {
	checks := []packettest.Check{packettest.NoneOn(from), packettest.NoDrops()}
	for _, c := range configs() {
		if c.ID != from {
			checks = append(checks, packettest.OutOn(c.ID, 1, packettest.Same(f)))
		}
	}
	return packettest.All(checks...)
}

// refused: one drop, for the reason, and nothing left.
func refused(r drop.Reason) packettest.Check {
	return packettest.All(packettest.Silent(), packettest.OnlyDropped(r, 1))
}

func TestForward(t *testing.T) {
	nowhere := packettest.NewStation(77)
	run(t, []row{
		{"container to gateway", "a", frames(ping(a, gw)), forwarded("gw", ping(a, gw))},
		{"container to the outside", "a", frames(packettest.Frame(a.MAC, gw.MAC, packettest.Echo(a.IP4, out4, 1, 1, nil))), packettest.OutOn("gw", 1)},
		{"gateway to container", "gw", frames(ping(gw, a)), forwarded("a", ping(gw, a))},
		{"container to container", "a", frames(ping(a, b)), forwarded("b", ping(a, b))},
		{"container to container, IPv6", "a", frames(ping6(a, b)), forwarded("b", ping6(a, b))},
		{"container to guest", "a", frames(ping(a, g)), forwarded("g", ping(a, g))},
		{"guest to guest", "g", frames(ping(g, h)), forwarded("h", ping(g, h))},
		{"broadcast", "a", frames(arpFor(a, b)), flooded("a", arpFor(a, b))},
		{"multicast", "a", frames(packettest.NS(a.MAC, a.IP6, b.IP6)), flooded("a", packettest.NS(a.MAC, a.IP6, b.IP6))},
		{"broadcast from the gateway", "gw", frames(arpFor(gw, b)), flooded("gw", arpFor(gw, b))},
		{"to an address nobody has", "a", frames(ping(a, nowhere)), refused(drop.DstUnknown)},
		{"to oneself", "a", frames(ping(a, a)), refused(drop.DstUnknown)},
	})
}

// Consecutive frames for one port leave in one call, in order, whatever is dropped or flooded between them.
func TestBatches(t *testing.T) {
	w := newWorld(t, nil)
	w.send("a", ping(a, gw), ping(a, gw), ping(a, b), ping(a, gw), ping(b, gw), ping(a, gw), arpFor(a, b), ping(a, gw))
	var sizes []int
	for _, batch := range w.out["gw"].Batches() {
		sizes = append(sizes, len(batch))
	}
	want := []int{2, 1, 1, 1, 1}
	if !slices.Equal(sizes, want) {
		t.Errorf("gateway got batches of %v frames, want %v", sizes, want)
	}
	packettest.Run(t, &w.result, packettest.All(
		packettest.OutOn("gw", 6), packettest.OutOn("b", 2), packettest.OnlyDropped(drop.SrcMACSpoofed, 1)))

	w = newWorld(t, nil)
	batch := make([]l2.Frame, 64)
	for i := range batch {
		batch[i] = ping(a, gw)
	}
	w.send("a", batch...)
	if n := len(w.out["gw"].Batches()); n != 1 {
		t.Errorf("64 frames for the gateway left in %d calls, want 1", n)
	}
	if st := w.port["a"].Stats(); st.In != 64 || st.Dropped != 0 {
		t.Errorf("stats of a = %+v", st)
	}
}

// A port that is full loses frames; the switch goes on with the others.
func TestFullPort(t *testing.T) {
	w := newWorld(t, nil)
	w.out["b"].Limit = 1
	w.send("a", ping(a, b), ping(a, b), ping(a, gw))
	if st := w.port["b"].Stats(); st.Out != 1 || st.Lost != 1 {
		t.Errorf("stats of b = %+v, want one out and one lost", st)
	}
	packettest.Run(t, &w.result, packettest.OutOn("gw", 1))
}

// The memory of a flooded frame is read by several receivers: none of them may take it.
func TestFloodOffersNoBuf(t *testing.T) {
	w := newWorld(t, nil)
	for _, p := range w.out {
		p.OnOutput = func(fs []l2.Frame) {
			for i := range fs {
				fs[i].Buf.Take()
			}
		}
	}
	f, u := arpFor(a, b), ping(a, b)
	f.Buf, u.Buf = &l2.Buf{Data: f.L3[0]}, &l2.Buf{Data: u.L3[0]}
	batch := frames(f, u)
	w.send("a", batch...)
	if batch[0].Buf == nil || batch[0].Buf.Taken() {
		t.Error("the Buf of a broadcast was given away")
	}
	if !batch[1].Buf.Taken() {
		t.Error("the Buf of a unicast frame was not offered")
	}
}

func TestGroups(t *testing.T) {
	w := newWorld(t, func(c *bridge.PortConfig) {
		if !c.Trusted {
			c.Group = bridge.GroupContainers
		}
	})
	w.send("a", ping(a, b), arpFor(a, b), ping(a, gw))
	packettest.Run(t, &w.result, packettest.All(
		packettest.NoneOn("b", "g", "h"), packettest.OutOn("gw", 2), packettest.OnlyDropped(drop.PortIsolated, 1)))
}

func TestDetach(t *testing.T) {
	w := newWorld(t, nil)
	w.announce(t)
	w.Detach(w.port["b"])
	w.Detach(w.port["b"])
	w.send("b", ping(b, a))
	w.send("a", ping(a, b), arpFor(a, b))
	packettest.Run(t, &w.result, packettest.All(packettest.NoneOn("b", "a"), packettest.OutOn("gw", 1),
		packettest.Dropped(drop.TAPDown, 1), packettest.Dropped(drop.DstUnknown, 1)))
	if len(w.Ports()) != 4 {
		t.Errorf("%d ports, want 4", len(w.Ports()))
	}
	// Its ID, MAC and addresses are free again.
	p := &packettest.Port{Name: "b2"}
	if _, err := w.Attach(p, configs()[2]); err != nil {
		t.Fatal(err)
	}
	w.send("a", ping(a, b))
	if len(p.Frames()) != 1 {
		t.Error("frame did not reach the new port")
	}
}

func TestOwner(t *testing.T) {
	w := newWorld(t, nil)
	for _, addr := range []netip.Addr{a.IP4, a.IP6, packettest.LinkLocal(a.MAC)} {
		if mac, ok := w.Owner(addr); !ok || mac != a.MAC {
			t.Errorf("Owner(%v) = %v, %v; want %v", addr, mac, ok, a.MAC)
		}
	}
	if _, ok := w.Owner(g.IP4); ok {
		t.Error("an address that control did not give out has an owner")
	}
}

func TestAttachErrors(t *testing.T) {
	edit := func(f func(c *bridge.PortConfig)) bridge.PortConfig {
		c := bridge.PortConfig{ID: "x", MAC: packettest.NewStation(9).MAC, Strict: true}
		f(&c)
		return c
	}
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	for want, c := range map[string]bridge.PortConfig{
		"no ID":                edit(func(c *bridge.PortConfig) { c.ID = "" }),
		`ID "a" exists`:        edit(func(c *bridge.PortConfig) { c.ID = "a" }),
		"needs a MAC":          edit(func(c *bridge.PortConfig) { c.MAC = l2.MAC{} }),
		"group address":        edit(func(c *bridge.PortConfig) { c.MAC = l2.Broadcast }),
		"both strict":          edit(func(c *bridge.PortConfig) { c.Trusted = true }),
		"needs subnets":        edit(func(c *bridge.PortConfig) { c.Strict = false }),
		"subnet is not":        edit(func(c *bridge.PortConfig) { c.Subnets = []netip.Prefix{{}} }),
		"in use on another":    edit(func(c *bridge.PortConfig) { c.MAC = a.MAC }),
		"in use by a":          edit(func(c *bridge.PortConfig) { c.Addrs = []netip.Addr{a.IP4} }),
		"not that of a single": edit(func(c *bridge.PortConfig) { c.Addrs = addr("224.0.0.1") }),
		"given twice":          edit(func(c *bridge.PortConfig) { c.Addrs = append(addr("10.0.2.9"), addr("10.0.2.9")...) }),
	} {
		w := newWorld(t, nil)
		_, err := w.Attach(&packettest.Port{Name: "x"}, c)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "attach x: ") {
			t.Errorf("Attach(%+v) = %v, want an error with %q", c, err, want)
		}
		// Nothing has changed: the same port, corrected, can be attached.
		if _, err := w.Attach(&packettest.Port{Name: "x"}, edit(func(*bridge.PortConfig) {})); err != nil {
			t.Errorf("after %q: %v", want, err)
		}
	}
}

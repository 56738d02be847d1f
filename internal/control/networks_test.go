package control

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// What makes no sense, and what the datapath refuses, is an error that says what and why, and changes nothing.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.running()
	r.add("web")
	r.add("db")
	r.attach("web", "c1")
	s := r.publish("web", "c1")
	dev, _ := newTAP(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ls, taken := listen(t, 80, 666), listen(t, 80)
	taken[0].Spec = s
	p10 := netip.MustParsePrefix("10.0.0.0/8")
	attach := func(network, id string) error {
		return r.Attach(network, spec.Endpoint{ID: id}, dev, tapInfo)
	}
	update := func(network string, names ...string) error {
		return r.Update(network, spec.Endpoint{ID: "c1", Names: names})
	}
	stats := func() error { _, err := r.Stats(t.Context(), "no"); return err }
	for want, err := range map[string]error{
		"add network web: it is there already":                             r.AddNetwork(spec.Network{ID: "web"}, nil),
		"add network : it has no id":                                       r.AddNetwork(spec.Network{}, nil),
		"add network n: make network refuse: not today":                    r.AddNetwork(spec.Network{ID: "n", Name: "refuse"}, nil),
		"remove network no: network no is not there":                       r.RemoveNetwork("no"),
		"remove network web: it has 1 endpoints; detach them first":        r.RemoveNetwork("web"),
		"attach endpoint c1: it is attached already":                       attach("web", "c1"),
		"attach endpoint refuse: not today":                                attach("web", "refuse"),
		"attach endpoint c2: network no is not there":                      attach("no", "c2"),
		"update endpoint c1: network no is not there":                      update("no"),
		"update endpoint c1: it is not attached to network db":             update("db"),
		"update endpoint c1: not this name":                                update("web", "refuse"),
		"detach endpoint c2: it is not attached to network web":            r.Detach("web", "c2"),
		"publish ports: endpoint c2: it is not attached to network web":    r.Publish("web", "c2", ls),
		"publish ports: " + portID(ls[1].Spec) + ": not this port":         r.Publish("web", "c1", ls),
		"publish ports: " + portID(s) + ": it is published already":        r.Publish("web", "c1", taken),
		"unpublish ports: " + portID(ls[0].Spec) + ": it is not published": r.Unpublish("web", "c1", []portfwd.Spec{s, ls[0].Spec}),
		"unpublish ports: endpoint c1: it is not attached to network db":   r.Unpublish("db", "c1", nil),
		"reserve prefixes: an invalid prefix is among them":                r.Reserve(p10, netip.Prefix{}),
		"reserve prefixes: not everything":                                 r.Reserve(netip.MustParsePrefix("::/0")),
		"release prefixes: 10.0.0.0/8: it is not reserved":                 r.Release(p10),
		"capture network no: network no is not there":                      r.Capture("no", f),
		"ask for counters of network no: network no is not there":          stats(),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	long := spec.Endpoint{ID: "long", Names: []string{strings.Repeat("x", datapath.MaxMessage)}}
	if err := r.Attach("web", long, dev, tapInfo); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("attach with too many names: %v", err)
	}
	r.wantFetch(s, "web")
	if d := cmp.Diff(map[string]uint64{"endpoint c1 []": 1, "port " + portID(s) + " to c1": 1}, r.holds("web")); d != "" {
		t.Error(d)
	}
	if got := r.Status(); got.State != Running || got.Restarts != 0 {
		t.Errorf("status %+v", got)
	}
}

// Update changes what it says it changes, also for the next datapath, and nothing else.
func TestUpdate(t *testing.T) {
	r := newRig(t)
	r.running()
	r.add("web")
	r.attach("web", "c1")
	to := spec.Endpoint{ID: "c1", Names: []string{"db"}, Strict: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	if err := r.Update("web", to); err != nil {
		t.Fatal(err)
	}
	if h := r.holds("web"); h["endpoint c1 [db]"] != 1 {
		t.Errorf("holds %v", h)
	}
	syscall.Kill(r.Status().PID, syscall.SIGKILL)
	r.waitRunning()
	if h := r.holds("web"); h["endpoint c1 [db]"] != 1 {
		t.Errorf("after a restart: %v", h)
	}
	_ = r.do(func(s *supervisor) error {
		if e := s.want.networks["web"].endpoints["c1"].spec; e.Strict || e.Addrs != nil {
			t.Errorf("wanted: %+v", e)
		}
		return nil
	})
}

// RX-11, FT-20: 1 000 Networks with two Endpoints each and a port are all there again after a restart,
// with no more requests on their way than the window, and no Network costs a descriptor here beside its TAPs and ports.
//
// The time is the bench's: well under a second with this Backend, of five allowed.
func TestThousandNetworksRestart(t *testing.T) {
	const networks, watches = 1000, 4
	r := newRig(t)
	r.running()
	dev, _ := newTAP(t)
	before := openFiles(t)
	for i := range networks {
		id := fmt.Sprintf("n%d", i)
		if err := r.Reserve(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)); err != nil {
			t.Fatal(err)
		}
		r.add(id)
		for _, e := range []string{"c1", "c2"} {
			if err := r.Attach(id, spec.Endpoint{ID: e, Names: []string{id + e}}, dev, tapInfo); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := r.publish("n999", "c2")
	// The watches of the host open theirs meanwhile.
	if used := openFiles(t) - before - (2*networks + 1); used < 0 || used > watches {
		t.Errorf("%d descriptors beside one for each TAP and port", used)
	}
	pid := r.Status().PID
	syscall.Kill(pid, syscall.SIGKILL)
	r.waitRunning()
	r.wantFetch(s, "n999")
	for _, id := range []string{"n0", "n500", "n999"} {
		h := r.holds(id)
		want := networks + 2
		if id == "n999" {
			want++
		}
		if len(h) != want || h["endpoint c2 ["+id+"c2]"] != 1 {
			t.Errorf("%s holds %d things, want %d", id, len(h), want)
		}
	}
	for i := range networks {
		id := fmt.Sprintf("n%d", i)
		for _, e := range []string{"c1", "c2"} {
			if err := r.Detach(id, e); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.RemoveNetwork(id); err != nil {
			t.Fatal(err)
		}
	}
	if after := openFiles(t); after > before+watches {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// RX-12: attaching the 2 000th Endpoint asks for no more than attaching the first. The time is the bench's.
func TestAttachDoesNotGrow(t *testing.T) {
	r := newRig(t)
	r.running()
	r.add("web")
	dev, _ := newTAP(t)
	n := 0
	attach := func() {
		n++
		if err := r.Attach("web", spec.Endpoint{ID: fmt.Sprintf("c%04d", n), Names: []string{"name"}}, dev, tapInfo); err != nil {
			t.Fatal(err)
		}
	}
	first := testing.AllocsPerRun(50, attach)
	for n < 1950 {
		attach()
	}
	// The events of the fake and the watches allocate too, now and then. One for each Endpoint that is there
	// would be thousands.
	if last := testing.AllocsPerRun(50, attach); last > first+200 {
		t.Errorf("%v allocations at %d, %v at the first", last, n, first)
	}
}

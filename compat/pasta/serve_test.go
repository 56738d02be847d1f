package pasta

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/portfwd"
)

// fakeSide is a host or a namespace with programs that listen. It is a lookout of itself.
type fakeSide struct {
	mu     sync.Mutex
	tcp    bound
	looked int
	open   bool
}

func (f *fakeSide) ports(p forward.Proto) (bound, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked++
	if p == forward.UDP {
		return bound{}, nil
	}
	return maps.Clone(f.tcp), nil
}

func (f *fakeSide) close() { f.open = false }

func (f *fakeSide) listen(ports ...uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tcp = bound{}
	for _, p := range ports {
		f.tcp[p] = true
	}
}

func (f *fakeSide) looks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looked
}

// fakeNet serves whatever it is asked for, unless the port is busy.
type fakeNet struct {
	mu     sync.Mutex
	open   map[string]bool
	busy   map[uint16]bool
	asked  int // for sockets inside
	refuse error
}

func (f *fakeNet) add(specs []portfwd.Spec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range specs {
		if f.busy[s.HostPort] {
			return &portfwd.BindError{Spec: s, Err: syscall.EADDRINUSE}
		}
	}
	for _, s := range specs {
		f.open[s.String()] = true
	}
	return nil
}

func (f *fakeNet) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) { return specs, f.add(specs) }

func (f *fakeNet) PublishSockets(ls []portfwd.Listener) error {
	var specs []portfwd.Spec
	for _, l := range ls {
		specs = append(specs, l.Spec)
	}
	return f.add(specs)
}

func (f *fakeNet) Unpublish(specs []portfwd.Spec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range specs {
		if !f.open[s.String()] {
			return errors.New("not published")
		}
		delete(f.open, s.String())
	}
	return nil
}

func (f *fakeNet) sockets(_ context.Context, wanted []plumb.Socket) ([]*os.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.refuse != nil {
		return nil, f.refuse
	}
	files := make([]*os.File, len(wanted))
	for i := range files {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		w.Close()
		files[i] = r
	}
	return files, nil
}

func (f *fakeNet) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(f.open)), ", ")
}

// portsRig is a ports with everything around it made up.
type portsRig struct {
	net          *fakeNet
	host, inside *fakeSide
	p            *ports
}

func newPortsRig() *portsRig {
	return &portsRig{
		net:  &fakeNet{open: map[string]bool{}, busy: map[uint16]bool{}},
		host: &fakeSide{tcp: bound{}}, inside: &fakeSide{tcp: bound{}},
	}
}

// rules reads options such as "-t 22".
func rules(t *testing.T, args string) (in, out forward.Table) {
	t.Helper()
	o, err := Parse(append([]string{"pasta"}, strings.Fields(args)...))
	if err != nil {
		t.Fatal(err)
	}
	given := map[forward.Option]bool{}
	for _, f := range o.Forward {
		given[f.Option] = true
	}
	for _, f := range "tuTU" {
		if !given[forward.Option(f)] {
			o.Forward = append(o.Forward, ForwardOption{forward.Option(f), "none"})
		}
	}
	if in, out, err = o.Tables(true, true, forward.Ports{First: 32768, Last: 60999}); err != nil {
		t.Fatal(err)
	}
	return in, out
}

func (r *portsRig) start(t *testing.T, args string) error {
	t.Helper()
	in, out := rules(t, args)
	specs, err := fixedSpecs(&in, false)
	if err != nil {
		return err
	}
	// The Network binds these at its start.
	if err := r.net.add(specs); err != nil {
		return err
	}
	look := sides{
		host:   func() (lookout, error) { r.host.open = true; return r.host, nil },
		inside: func(context.Context) (lookout, error) { r.inside.open = true; return r.inside, nil },
	}
	p, err := startPorts(t.Context(), r.net, r.net.sockets, look, false, false, in, out, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	r.p = p
	t.Cleanup(func() {
		p.close()
		if r.host.open || r.inside.open {
			t.Error("lookouts are open at the end")
		}
	})
	return nil
}

func (r *portsRig) want(t *testing.T, want string) {
	t.Helper()
	if got := r.net.String(); got != want {
		t.Errorf("open: %s\nwant: %s", got, want)
	}
}

func TestFixedPorts(t *testing.T) {
	r := newPortsRig()
	if err := r.start(t, "-t 127.0.0.1/8080-8081:80-81 -u 0.0.0.0%eth0/53:10.0.0.9/5353 -T 5432 -U 53"); err != nil {
		t.Fatal(err)
	}
	r.want(t, "0.0.0.0:53:5353/udp to 10.0.0.9 on eth0, 127.0.0.1:8080:80/tcp, 127.0.0.1:8081:81/tcp, "+
		"reverse 127.0.0.1:53:53/udp, reverse 127.0.0.1:5432:5432/tcp, reverse [::1]:53:53/udp, reverse [::1]:5432:5432/tcp")
	if r.host.looks()+r.inside.looks() != 0 {
		t.Error("looked who listens although no rule asks")
	}
}

// pass lets time go by in a bubble, until all is quiet again.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestAuto: ports follow who listens on the other side, and never who listens for us.
func TestAuto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortsRig()
		r.inside.listen(80, 40000)
		if err := r.start(t, "-t auto -T 7000-7001,auto"); err != nil {
			t.Fatal(err)
		}
		r.want(t, "80:80/tcp") // 40000 is ephemeral
		r.host.listen(80, 7001)
		step := func() { pass(scanEvery + scanEvery/2) }
		step()
		r.want(t, "80:80/tcp, reverse 127.0.0.1:7001:7001/tcp, reverse [::1]:7001:7001/tcp")
		r.inside.listen(80, 7001, 443) // 7001 is our own
		step()
		r.want(t, "443:443/tcp, 80:80/tcp, reverse 127.0.0.1:7001:7001/tcp, reverse [::1]:7001:7001/tcp")
		r.inside.listen(7001)
		r.host.listen(80)
		step()
		r.want(t, "")
	})
}

// TestAllFollows: "all" takes a port once it is listened to.
func TestAllFollows(t *testing.T) {
	r := newPortsRig()
	r.inside.listen(22, 8080)
	if err := r.start(t, "-t all,~22"); err != nil {
		t.Fatal(err)
	}
	r.want(t, "8080:8080/tcp")
}

// TestQuiet: nobody wakes up while no rule asks who listens, nor after the last that did is gone.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortsRig()
		if err := r.start(t, "-t 22"); err != nil {
			t.Fatal(err)
		}
		pass(100 * scanEvery)
		in, out := rules(t, "-t auto")
		if err := r.p.set(t.Context(), in, out); err != nil {
			t.Fatal(err)
		}
		before := r.inside.looks()
		pass(10*scanEvery + scanEvery/2)
		if n := r.inside.looks() - before; n != 10 || r.host.looks() != 0 {
			t.Errorf("looked %d times inside in 10 s, and %d times on the host", n, r.host.looks())
		}
		in, out = rules(t, "-t 22")
		if err := r.p.set(t.Context(), in, out); err != nil {
			t.Fatal(err)
		}
		before = r.inside.looks()
		pass(100 * scanEvery)
		if n := r.inside.looks() - before; n != 0 {
			t.Errorf("looked %d times for nobody", n)
		}
	})
}

// TestBusy: a port in use is an error where it was asked for by number, and passed over where not.
func TestBusy(t *testing.T) {
	r := newPortsRig()
	r.net.busy[80], r.net.busy[7000] = true, true
	r.inside.listen(80, 443)
	if err := r.start(t, "-t auto"); err != nil {
		t.Fatal(err)
	}
	r.want(t, "443:443/tcp")

	r = newPortsRig()
	r.net.busy[80] = true
	err := bindText(r.start(t, "-t 80"))
	if err == nil || !strings.HasPrefix(err.Error(), "Failed to bind port 80 (Address already in use)") {
		t.Error(err)
	}
	r = newPortsRig()
	r.net.busy[7000] = true
	if err := r.start(t, "-T 7000"); err == nil {
		t.Error("a port in use in the namespace is no error")
	}
}

// TestSetFails: after an update that cannot be, all is as it was.
func TestSetFails(t *testing.T) {
	r := newPortsRig()
	if err := r.start(t, "-t 22,23 -T 24"); err != nil {
		t.Fatal(err)
	}
	was := r.net.String()
	r.net.busy[25] = true
	in, out := rules(t, "-t 22,25 -T 26")
	if err := r.p.set(t.Context(), in, out); err == nil {
		t.Error("no error")
	}
	r.want(t, was)
	gotIn, _ := r.p.tables()
	if len(gotIn.Rules) != 2 || gotIn.Rules[1].First != 23 {
		t.Errorf("table %v", gotIn.Rules)
	}
	for name, rule := range map[string]forward.Rule{
		"to an address": {Addr: addr("127.0.0.1"), To: addr("10.0.0.1"), First: 1, Last: 1, ToPort: 1, Proto: forward.TCP},
		"not loopback":  {Addr: addr("10.0.0.1"), First: 1, Last: 1, ToPort: 1, Proto: forward.TCP},
		"by a device":   {Addr: addr("127.0.0.1"), Device: "eth0", First: 1, Last: 1, ToPort: 1, Proto: forward.TCP},
	} {
		if err := r.p.set(t.Context(), gotIn, forward.Table{Rules: []forward.Rule{rule}}); err == nil {
			t.Errorf("outbound rule %s was taken", name)
		}
	}
	in, out = rules(t, "-t 1-20000")
	if err := r.p.set(t.Context(), in, out); err == nil || !strings.Contains(err.Error(), "More than 16384 ports") {
		t.Error(err)
	}
	r.want(t, was)
}

// TestInsideIsNotTriedForEver: a port that cannot be had in the namespace costs a helper once, not every second.
func TestInsideIsNotTriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortsRig()
		r.net.refuse = errors.New("no such namespace")
		r.host.listen(7000)
		if err := r.start(t, "-T auto"); err != nil {
			t.Fatal(err)
		}
		pass(20 * scanEvery)
		if r.net.asked != 3 { // both loopback addresses together, then each
			t.Errorf("asked %d times", r.net.asked)
		}
		r.host.listen()
		pass(2 * scanEvery)
		r.net.refuse = nil
		r.host.listen(7000)
		pass(2 * scanEvery)
		r.want(t, "reverse 127.0.0.1:7000:7000/tcp, reverse [::1]:7000:7000/tcp")
	})
}

package control

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// FT-20, FT-25: a datapath that is killed or panics is replaced within a second, by one that has the
// same Networks, TAPs and listeners, and clients that come meanwhile wait instead of being refused.
func TestRestart(t *testing.T) {
	for name, end := range map[string]func(r *rig, tapEnd *os.File){
		"killed": func(r *rig, _ *os.File) { syscall.Kill(r.Status().PID, syscall.SIGKILL) },
		"panic":  func(_ *rig, tapEnd *os.File) { tapEnd.WriteString("p") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.running()
			r.add("web")
			r.add("db")
			tapEnd := r.attach("web", "c1")
			s := r.publish("web", "c1")
			first := r.Status().PID

			began := time.Now()
			end(r, tapEnd)
			r.state(Restarting)
			r.wantFetch(s, "web")
			r.state(Running)
			// FT-20 says one second; it takes 20 ms, and the rest is for a machine busy with other tests.
			if took := time.Since(began); took > patience {
				t.Errorf("it took %v", took)
			}
			if got := r.Status(); got.PID == first || got.PID == 0 || got.Restarts != 1 {
				t.Errorf("status %+v after pid %d", got, first)
			}
			if h := r.holds("db"); len(h) != 0 {
				t.Errorf("the other network holds %v", h)
			}
			// The new one has the TAP itself: it panics of what comes from it.
			tapEnd.WriteString("p")
			r.state(Restarting)
			r.state(Running)
			if name == "panic" {
				if b, _ := os.ReadFile(r.log.Name()); !strings.Contains(string(b), "the packet that caused it") {
					t.Errorf("the log does not say why: %s", b)
				}
			}
		})
	}
}

// A successor that refuses what was accepted before has the rest all the same, and what was refused stays wanted until
// its owner takes it back.
func TestRestartRefused(t *testing.T) {
	r := newRig(t)
	r.running()
	r.add("web")
	r.attach("web", "c1")
	// As if an earlier datapath had accepted what this kind refuses.
	dev, _ := newTAP(t)
	kept := func() *os.File {
		f, err := sys.Keep(dev)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	long := spec.Endpoint{ID: "long", Names: []string{strings.Repeat("x", datapath.MaxMessage)}}
	err := r.do(func(s *supervisor) error {
		s.want.networks["web"].endpoints["refuse"] = &endpoint{spec: spec.Endpoint{ID: "refuse"}, tap: kept()}
		s.want.networks["web"].endpoints["long"] = &endpoint{spec: long, tap: kept()}
		s.want.networks["n"] = &network{spec: spec.Network{ID: "n", Name: "refuse"}}
		s.want.reserved[netip.MustParsePrefix("0.0.0.0/0")] = 1
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(r.Status().PID, syscall.SIGKILL)
	r.waitRunning()
	if err := r.Attach("web", spec.Endpoint{ID: "c2"}, dev, tapInfo); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]uint64{"endpoint c1 []": 1, "endpoint c2 []": 1}, r.holds("web")); d != "" {
		t.Error(d)
	}
	for _, err := range []error{r.Detach("web", "refuse"), r.Detach("web", "long"), r.Detach("web", "c1"), r.Detach("web", "c2"), r.RemoveNetwork("web"), r.RemoveNetwork("n")} {
		if err != nil {
			t.Error(err)
		}
	}
}

// FT-21: what a Control held, and the TAPs and sockets that outlive it, make the next one the same: nobody is refused
// meanwhile, because the sockets stay bound.
func TestNextControlTakesOver(t *testing.T) {
	dev, other := newTAP(t)
	ls := listen(t, 80)
	for range 2 {
		r := newRig(t)
		r.add("web")
		if err := r.Attach("web", spec.Endpoint{ID: "c1"}, dev, tapInfo); err != nil {
			t.Fatal(err)
		}
		if err := r.Publish("web", "c1", ls); err != nil {
			t.Fatal(err)
		}
		r.wantFetch(ls[0].Spec, "web")
		// A control that is killed takes its datapath with it (the datapath's own tests); this one ends in order, and
		// what it duplicated does not end what it was given.
		r.Close()
		if r.Status().PID != 0 {
			t.Error("the datapath lives")
		}
		_, err := portfwd.Listen([]portfwd.Spec{ls[0].Spec}, false)
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("the port is free: %v", err)
		}
	}
	r := newRig(t)
	r.add("web")
	if err := r.Attach("web", spec.Endpoint{ID: "c1"}, dev, tapInfo); err != nil {
		t.Fatal(err)
	}
	other.WriteString("e")
	if n, id := r.event("the TAP is gone"); n != "web" || id != "c1" {
		t.Errorf("gone: %s of %s", id, n)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	cycle := func() {
		r := newRig(t)
		r.running()
		r.add("web")
		r.attach("web", "c1")
		s := r.publish("web", "c1")
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.Capture("web", f), f.Close()); err != nil {
			t.Fatal(err)
		}
		pid := r.Status().PID
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		r.state(Closed)
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the datapath lives: %v", err)
		}
		if _, err := fetch(s); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the listener lives: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		if err := r.AddNetwork(spec.Network{ID: "n"}, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("add after close: %v", err)
		}
	}
	cycle()
	before := openFiles(t)
	for range 3 {
		cycle()
	}
	goleak.VerifyNone(t)
	// A cycle keeps two files of the test itself: the log and the other end of the TAP.
	if after := openFiles(t) - 6; after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestContextCloses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Start(ctx, Config{Datapath: datapath.Config{Args: []string{"usernet", datapathRole}}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-c.Done()
	if c.Status().State != Closed || !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("%v, %v", c.Status().State, c.Err())
	}
}

func TestFailedStart(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Datapath.Exe = "/nonexistent/usernet" })
	const part = "no such file"
	if err := r.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), part) || strings.Count(err.Error(), "start datapath: ") != 1 {
		t.Errorf("ready: %v", err)
	}
	<-r.Done()
	r.state(Failed)
	if err := r.Detach("n", "x"); err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("a request gives %v", err)
	}
}

// The host's resolvers are there from the start and followed, for all Networks; given ones are not followed.
func TestUpstreams(t *testing.T) {
	r := newRig(t)
	r.add("a")
	if _, got := r.event("dns"); got != "[192.0.2.1:53]" {
		t.Errorf("at the start: %s", got)
	}
	r.add("b")
	if n, got := r.event("dns"); n != "b" || got != "[192.0.2.1:53]" {
		t.Errorf("of another: %s of %s", got, n)
	}
	r.writeResolv("nameserver 192.0.2.2\nnameserver fe80::1%lo\n")
	seen := map[string]bool{}
	for range 2 {
		n, got := r.event("dns")
		if got != "[192.0.2.2:53 [fe80::1%1]:53]" {
			t.Errorf("after a change: %s", got)
		}
		seen[n] = true
	}
	if len(seen) != 2 {
		t.Errorf("only %v were told", seen)
	}
	r = newRig(t, func(c *Config) { c.DNS.Servers = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:5353")} })
	r.add("a")
	if _, got := r.event("dns"); got != "[198.51.100.1:5353]" {
		t.Errorf("given: %s", got)
	}
}

// A capture goes on where the last datapath left off.
func TestCaptureSurvives(t *testing.T) {
	r := newRig(t)
	r.running()
	r.add("web")
	path := filepath.Join(t.TempDir(), "pcap")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Capture("web", f), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := r.Capture("db", f); err == nil {
		t.Error("captured a network that is not there, to a closed file")
	}
	syscall.Kill(r.Status().PID, syscall.SIGKILL)
	r.waitRunning()
	r.holds("web")
	if b, err := os.ReadFile(path); string(b) != "false\ntrue\n" || err != nil {
		t.Errorf("begun before: %q, %v", b, err)
	}
}

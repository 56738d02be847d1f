package cnm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm/cnmtest"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
)

// TestParallel is FT-13: 16 workers, 1 000 connects and disconnects each on one /24: no address twice, the count is
// exact, no failure that would be a 5xx.
func TestParallel(t *testing.T) {
	const workers, rounds = 16, 1000
	r := newRig(t)
	id := r.create("n1", "10.1.0.0/24")
	var boxes []*box
	for w := range workers {
		boxes = append(boxes, r.run(sandboxConf(fmt.Sprint("c", w), "bridge")))
	}
	r.settled()
	var mu sync.Mutex
	holders := make(map[netip.Addr]string)
	var wg sync.WaitGroup
	for _, b := range boxes {
		wg.Go(func() {
			for range rounds {
				if err := r.c.Connect(context.Background(), b.conf.Name, EndpointConfig{Network: "n1"}); err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				a := b.leg("n1").Addr4.Addr()
				mu.Lock()
				if holders[a] != "" {
					t.Errorf("%s has %s, and so has %s", holders[a], a, b.conf.Name)
				}
				holders[a] = b.conf.Name
				mu.Unlock()
				mu.Lock()
				delete(holders, a)
				mu.Unlock()
				if err := r.c.Disconnect(context.Background(), id, b.conf.ID, false); err != nil {
					t.Errorf("disconnect: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.settled()
	r.check(boxes...)
	if n, _ := r.c.Network("n1"); n.InUse[netip.MustParsePrefix("10.1.0.0/24")] != 3 || n.Free[netip.MustParsePrefix("10.1.0.0/24")] != 253 {
		t.Errorf("in use %v, free %v", n.InUse, n.Free)
	}
}

// TestSamePlaceAtOnce: of many who want one name, one address or one network's end, one gets it.
func TestSamePlaceAtOnce(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	race := func(what string, want int, f func(i int) error) {
		t.Helper()
		won := make(chan int, 16)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if f(i) == nil {
					won <- i
				}
			})
		}
		wg.Wait()
		if len(won) != want {
			t.Errorf("%s: %d got it, want %d", what, len(won), want)
		}
	}
	ctx := context.Background()
	race("one name", 1, func(int) error { _, _, err := r.c.Create(ctx, NetworkConfig{Name: "n2"}); return err })
	race("one sandbox", 1, func(int) error { _, err := r.tryRun(sandboxConf("c", "bridge")); return err })
	race("one leg", 1, func(int) error { return r.c.Connect(ctx, "c", EndpointConfig{Network: "n1"}) })
	race("its end", 1, func(int) error { return r.c.Disconnect(ctx, "n1", "c", false) })
	race("one address", 1, func(i int) error {
		s := sandboxConf(fmt.Sprint("s", i))
		s.Networks = []EndpointConfig{{Network: "n1", IPv4: netip.MustParseAddr("10.1.0.9")}}
		_, err := r.tryRun(s)
		return err
	})
	race("a network's end", 1, func(int) error { return r.c.Remove(ctx, "n2") })
	r.settled()
	r.check()
	for _, sb := range r.c.Sandboxes() {
		r.c.sandboxes[sb.ID].Close()
	}
}

// A crash test stops a change at each of its steps, by an error and as a kill does, and holds what is left against
// the invariant: store, memory, datapath and namespaces say the same (FT-01).
func TestStepFails(t *testing.T) {
	ctx := context.Background()
	changes := []struct {
		name string
		do   func(r *rig, b *box) error
	}{
		{"create", func(r *rig, _ *box) error {
			_, _, err := r.c.Create(ctx, NetworkConfig{Name: "made"})
			return err
		}},
		{"remove", func(r *rig, _ *box) error { return r.c.Remove(ctx, "idle") }},
		{"connect", func(r *rig, _ *box) error {
			return r.c.Connect(ctx, "c1", EndpointConfig{Network: "n2", GwPriority: 1})
		}},
		{"disconnect", func(r *rig, _ *box) error { return r.c.Disconnect(ctx, "n1", "c1", false) }},
		{"run", func(r *rig, _ *box) error { _, err := r.tryRun(sandboxConf("c9", "n1", "n2")); return err }},
	}
	for _, ch := range changes {
		t.Run(ch.name, func(t *testing.T) {
			steps := countSteps(t, ch.do)
			if len(steps) == 0 {
				t.Fatalf("it has steps %v", steps)
			}
			for i, step := range steps {
				failStep(t, i, step, ch.do)
				killStep(t, i, step, ch.do)
			}
		})
	}
}

// crashRig is a sandbox with a port and two legs, one of which can go, and Networks to come and go.
func crashRig(t *testing.T) (*rig, *box) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.create("n2", "10.2.0.0/24")
	r.create("idle", "10.3.0.0/24")
	s := sandboxConf("c1", "n1", "bridge")
	s.Publish = []portfwd.Spec{local(0, 80)}
	s.Networks[0].GwPriority = 5
	b := r.run(s)
	r.settled()
	r.check(b)
	return r, b
}

// steps gives a failpoint that does what hit says at the n-th step.
func failpoint(n int, hit func() error) func(string) error {
	var mu sync.Mutex
	return func(string) error {
		mu.Lock()
		n--
		now := n == -1
		mu.Unlock()
		if now {
			return hit()
		}
		return nil
	}
}

func countSteps(t *testing.T, do func(*rig, *box) error) (steps []string) {
	r, b := crashRig(t)
	var mu sync.Mutex
	r.c.failpoint = func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, step)
		return nil
	}
	if err := do(r, b); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	steps = slices.Clone(steps)
	mu.Unlock()
	r.settled()
	r.check(b)
	return steps
}

// failStep has the n-th step fail: the change is undone, or was done already.
func failStep(t *testing.T, n int, step string, do func(*rig, *box) error) {
	t.Helper()
	r, b := crashRig(t)
	r.c.failpoint = failpoint(n, func() error { return errDisk })
	err := do(r, b)
	r.settled()
	if err != nil && !errors.Is(err, errDisk) {
		t.Errorf("step %d, %s: %v", n, step, err)
	}
	if err := r.differ(b); err != nil {
		t.Errorf("after an error at step %d, %s: %v", n, step, err)
	}
}

// killStep has the daemon die at the n-th step: the next one and the shims that live agree on what there is.
func killStep(t *testing.T, n int, step string, do func(*rig, *box) error) {
	t.Helper()
	r, b := crashRig(t)
	ls := b.kept(t)
	dead := make(chan struct{})
	r.c.failpoint = failpoint(n, func() error {
		close(dead)
		runtime.Goexit()
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(r, b)
	}()
	<-done
	wait(t, "the step", func() bool {
		select {
		case <-dead:
			return true
		default:
			return false
		}
	})
	r.setAlive(idOf("c9"), false) // its start was this daemon's to finish
	b.ns = survivor(b.ns)
	r.restart()
	next, err := r.rejoin(b, ls)
	if err != nil {
		t.Errorf("after a kill at step %d, %s: rejoin: %v", n, step, err)
		return
	}
	r.settled()
	if err := r.differ(next); err != nil {
		t.Errorf("after a kill at step %d, %s: %v", n, step, err)
	}
}

// survivor is the shim as the next daemon finds it.
func survivor(ns *cnmtest.Namespace) *cnmtest.Namespace {
	next := cnmtest.NewNamespace()
	files := []plumb.File{}
	for _, p := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"} {
		files = append(files, plumb.File{Path: p, Content: ns.File(p)})
	}
	next.Start(ns.Links(), ns.Routes(), files)
	return next
}

// TestCallFails has each call to the datapath and to the namespaces fail once.
func TestCallFails(t *testing.T) {
	ctx := context.Background()
	for _, method := range []string{"Plug", "SetRoutes", "SetFiles", "Unplug", "AddNetwork", "Attach", "Publish", "Unpublish", "Update", "Detach", "RemoveNetwork"} {
		for _, what := range []string{"connect", "disconnect"} {
			r, b := crashRig(t)
			var mu sync.Mutex
			failed := false
			once := func(m string) error {
				mu.Lock()
				defer mu.Unlock()
				if m != method || failed {
					return nil
				}
				failed = true
				return errDisk
			}
			r.dp.Fail, b.ns.Fail = once, once
			var err error
			if what == "connect" {
				err = r.c.Connect(ctx, "c1", EndpointConfig{Network: "n2", GwPriority: 9})
			} else {
				err = r.c.Disconnect(ctx, "n1", "c1", false)
			}
			mu.Lock()
			failed = true
			mu.Unlock()
			r.settled()
			if method == "Detach" || method == "RemoveNetwork" {
				continue // a datapath that refuses to let go has no memory to agree with
			}
			if e := r.differ(b); e != nil {
				t.Errorf("%s with %s failing (%v): %v", what, method, err, e)
			}
		}
	}
}

// TestCallerLeaves is FT-14: a caller that goes away mid-call leaves it done or undone.
func TestCallerLeaves(t *testing.T) {
	r, b := crashRig(t)
	for i := range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			for range rand.IntN(200) {
				runtime.Gosched()
			}
			cancel()
		}()
		var err error
		switch i % 3 {
		case 0:
			err = r.c.Connect(ctx, "c1", EndpointConfig{Network: "n2"})
		case 1:
			err = r.c.Disconnect(ctx, "n2", "c1", false)
		case 2:
			if _, _, err = r.c.Create(ctx, NetworkConfig{Name: "n3"}); err == nil {
				err = r.c.Remove(context.Background(), "n3")
			}
		}
		cancel()
		known := err == nil || errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "not connected") ||
			fault.KindOf(err) == fault.Forbidden
		if !known {
			t.Fatalf("round %d: %v", i, err)
		}
		if i%10 == 0 {
			r.settled()
			r.check(b)
		}
	}
	r.settled()
	r.check(b)
}

// TestStrayInterface: one that a shim made when nobody waited any more goes before the next comes.
func TestStrayInterface(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	b := r.run(sandboxConf("c1"))
	r.settled()
	b.ns.Fail = func(method string) error {
		if method == "Unplug" || method == "SetRoutes" || method == "SetFiles" {
			return errDisk
		}
		return nil
	}
	if err := r.c.Connect(context.Background(), "c1", EndpointConfig{Network: "n1", GwPriority: 1}); !errors.Is(err, errDisk) {
		t.Errorf("connect: %v", err)
	}
	r.settled()
	if n := len(b.ns.Links()); n != 2 {
		t.Fatalf("%d interfaces, want the stray one too", n)
	}
	b.ns.Fail = nil
	r.connect("c1", "n1")
	r.settled()
	r.check(b)
}

// TestShimStopped: one that does not answer costs its own caller the patience, is undone as far as can be, and keeps
// nobody else.
func TestShimStopped(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	b, other := r.run(sandboxConf("c1")), r.run(sandboxConf("c2"))
	r.settled()
	b.ns.Hang()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	stuck := make(chan error, 1)
	go func() { stuck <- r.c.Connect(ctx, "c1", EndpointConfig{Network: "n1"}) }()
	wait(t, "the shim to be asked", func() bool { return len(b.op) > 0 })
	r.connect("c2", "n1")
	r.disconnect("n1", "c2")
	r.check(other)
	b.Close() // its connection ends
	if err := <-stuck; err == nil {
		t.Error("a leg was made without an answer")
	}
	r.check(other)
}

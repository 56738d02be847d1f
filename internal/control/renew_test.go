package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/spec"
)

// crowded makes a few Endpoints many.
func crowded(few int, delay time.Duration) func(*Config) {
	return func(c *Config) { c.renewCrowd, c.renewDelay = few, delay }
}

// comeAndGo attaches Endpoints to Networks of their own, and takes all away.
func (r *rig) comeAndGo(endpoints int) {
	r.t.Helper()
	id := func(i int) string { return fmt.Sprint("gone", i) }
	for i := range endpoints {
		r.add(id(i))
		r.attach(id(i), "e")
	}
	for i := range endpoints {
		if err := errors.Join(r.Detach(id(i), "e"), r.RemoveNetwork(id(i))); err != nil {
			r.t.Fatal(err)
		}
	}
}

// turn waits until the supervisor has time, which it has not in the middle of a renewal.
func (r *rig) turn() {
	r.t.Helper()
	if err := r.do(func(*supervisor) error { return nil }); err != nil {
		r.t.Fatal(err)
	}
}

// renewed waits for a process that is not pid, and returns it.
func (r *rig) renewed(pid int) int {
	r.t.Helper()
	for limit := time.Now().Add(patience); r.Status().PID == pid; r.turn() {
		if time.Now().After(limit) {
			r.t.Fatalf("process %d is still there", pid)
		}
	}
	r.turn() // the one before has ended then
	return r.Status().PID
}

// When many Endpoints have gone, a fresh process takes over: it has what belongs to no Network, works as the one before
// did, and is the one that the next Control adopts.
func TestRenewed(t *testing.T) {
	l := &left{socket: socketPath(t), ls: listen(t, 80)}
	l.dev, l.other = newTAP(t)
	r := newRig(t, crowded(3, time.Millisecond), at(l.socket))
	r.running()
	first := r.Status().PID
	if err := r.Reserve(adoptedPrefix); err != nil {
		t.Fatal(err)
	}
	r.comeAndGo(3)
	l.pid = r.renewed(first)
	if err := syscall.Kill(first, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process before: %v", err)
	}
	if st := r.Status(); st.Restarts != 0 || st.State != Running || len(r.states) != 0 {
		t.Errorf("status %+v, %d changes of the state", st, len(r.states))
	}
	r.add("n")
	err := r.Attach("n", spec.Endpoint{ID: "e", Names: []string{"web"}}, l.dev, tapInfo)
	if err == nil {
		err = r.Publish("n", "e", l.ls)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"reserved " + adoptedPrefix.String(): 1, "endpoint e [web]": 1, "port " + portID(l.ls[0].Spec) + " to e": 1}
	if got := r.holds("n"); !equal(want, got) {
		t.Errorf("it holds %v, want %v", got, want)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	next := l.adopt(t)
	l.want(next)
	next.wantFetch(l.ls[0].Spec, "n")
	if err := next.Detach("n", "e"); err != nil { // or the process would outlive the test
		t.Error(err)
	}
}

// A process that is in use, or that has never had many Endpoints, stays.
func TestNotRenewed(t *testing.T) {
	r := newRig(t, crowded(3, time.Nanosecond))
	r.running()
	first := r.Status().PID
	r.comeAndGo(2)
	r.add("stays")
	r.comeAndGo(3)
	if err := r.do(func(s *supervisor) error {
		if s.renewal.timer.Stop() {
			return errors.New("a renewal is on its way")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if pid := r.Status().PID; pid != first {
		t.Error("the process was replaced")
	}
	if err := r.RemoveNetwork("stays"); err != nil {
		t.Fatal(err)
	}
	r.renewed(first)
}

// Whoever comes while processes are replaced notices nothing.
func TestRenewedWhileUsed(t *testing.T) {
	r := newRig(t, crowded(1, time.Nanosecond))
	r.running()
	for i := range 3 { // two renewals each
		r.comeAndGo(1)
		id := fmt.Sprint("n", i)
		r.add(id)
		r.attach(id, "e")
		if got := r.holds(id); got["endpoint e []"] != 1 {
			t.Fatalf("round %d: it holds %v", i, got)
		}
		if err := errors.Join(r.Detach(id, "e"), r.RemoveNetwork(id)); err != nil {
			t.Fatal(err)
		}
	}
	if st := r.Status(); st.Restarts != 0 {
		t.Errorf("%d restarts", st.Restarts)
	}
}

// A fresh process that cannot be started, or ends at once, is looked for as any other.
func TestRenewalFails(t *testing.T) {
	for name, inItsPlace := range map[string]string{"cannot be started": "", "ends at once": "#!/bin/sh\n"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			exe := filepath.Join(t.TempDir(), "datapath")
			if err := os.WriteFile(exe, b, 0o700); err != nil {
				t.Fatal(err)
			}
			r := newRig(t, crowded(1, time.Nanosecond), func(c *Config) { c.Datapath.Exe = exe })
			r.running()
			err = os.Rename(exe, exe+".away")
			if err == nil && inItsPlace != "" {
				err = os.WriteFile(exe, []byte(inItsPlace), 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
			r.comeAndGo(1)
			r.state(Restarting)
			if err := os.Rename(exe+".away", exe); err != nil {
				t.Fatal(err)
			}
			r.state(Running)
			r.add("n")
			r.attach("n", "e")
			if got := r.holds("n"); got["endpoint e []"] != 1 {
				t.Errorf("it holds %v", got)
			}
		})
	}
}

// What an adopted process holds, and nobody has claimed, is not lost by a renewal; when it was given up, the process is
// replaced.
func TestAdoptedRenewed(t *testing.T) {
	l := leave(t)
	r := l.adopt(t, crowded(1, time.Millisecond))
	for range 1000 { // some of them after the delay
		r.turn()
	}
	if pid := r.Status().PID; pid != l.pid {
		t.Fatal("the process was replaced")
	}
	if err := r.do(func(s *supervisor) error { s.dropUnclaimed(); return nil }); err != nil {
		t.Fatal(err)
	}
	r.renewed(l.pid)
}

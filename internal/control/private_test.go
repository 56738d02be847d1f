package control

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

var loopbackPort = portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}

// privateRig is a Private and what its Control's callbacks said.
type privateRig struct {
	*rig
	*Private
}

func newPrivate(t *testing.T, of PrivateConfig, change ...func(*Config)) privateRig {
	t.Helper()
	r := privateRig{rig: &rig{t: t}}
	of.Network.ID = "private"
	if of.Network.Name == "" {
		of.Network.Name = "web"
	}
	of.Endpoint.ID = "c1"
	p, err := StartPrivate(context.Background(), r.config(change...), of)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	r.Private, r.rig.Control = p, p.c
	return r
}

func (r privateRig) attach() (*os.File, error) {
	r.t.Helper()
	dev, other := newTAP(r.t)
	defer dev.Close()
	return other, r.Private.Attach("c1", dev, tapInfo)
}

func (r privateRig) publish() portfwd.Spec {
	r.t.Helper()
	bound, err := r.Private.Publish([]portfwd.Spec{loopbackPort})
	if err != nil || len(bound) != 1 || bound[0].HostPort == 0 {
		r.t.Fatalf("published %v, %v", bound, err)
	}
	return bound[0]
}

func TestPrivatePublishAndUnpublish(t *testing.T) {
	r := newPrivate(t, PrivateConfig{})
	if _, err := r.attach(); err != nil {
		t.Fatal(err)
	}
	s := r.publish()
	r.wantFetch(s, "web")
	if got := r.Ports(); !slices.Equal(got, []portfwd.Spec{s}) {
		t.Errorf("ports %v", got)
	}
	if st, err := r.Private.Stats(t.Context()); err != nil || st.Ports != 1 || st.Endpoints != 1 {
		t.Errorf("stats %+v, %v", st, err)
	}
	_, err := r.Private.Publish([]portfwd.Spec{s})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("published twice: %v", err)
	}
	unknown := portfwd.Spec{Proto: portfwd.UDP, HostPort: s.HostPort}
	if err := r.Private.Unpublish([]portfwd.Spec{s, unknown}); !errors.Is(err, ErrNotPublished) || len(r.Ports()) != 1 {
		t.Errorf("unpublish of one that is not: %v, left %v", err, r.Ports())
	}
	if err := r.Private.Unpublish([]portfwd.Spec{{Proto: portfwd.TCP, HostPort: s.HostPort}, s}); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(s); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after unpublish: %v", err)
	}
	if len(r.Ports()) != 0 {
		t.Errorf("ports left: %v", r.Ports())
	}
}

// Ports are bound before CMD starts, that is before there is an Endpoint, and can be taken back before, too.
func TestPrivatePublishBeforeAttach(t *testing.T) {
	r := newPrivate(t, PrivateConfig{Publish: []portfwd.Spec{loopbackPort}})
	first := r.Ports()[0]
	second := r.publish()
	third := r.publish()
	if err := r.Private.Unpublish([]portfwd.Spec{second}); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after unpublish: %v", err)
	}
	if _, err := r.attach(); err != nil {
		t.Fatal(err)
	}
	r.wantFetch(first, "web")
	r.wantFetch(third, "web")
	if got := r.Ports(); !slices.Equal(got, []portfwd.Spec{first, third}) {
		t.Errorf("ports %v", got)
	}
}

// A port in use is known before anything is started.
func TestPrivatePortInUse(t *testing.T) {
	taken := listen(t, 80)[0].Spec
	free := loopbackPort
	_, err := StartPrivate(t.Context(), Config{}, PrivateConfig{Publish: []portfwd.Spec{free, taken}})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("start: %v", err)
	}
	before := openFiles(t)
	if _, err = StartPrivate(t.Context(), Config{}, PrivateConfig{Publish: []portfwd.Spec{free}}); err == nil {
		t.Error("started without arguments")
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// What the datapath refuses is taken back and nothing else suffers.
func TestPrivateRefusals(t *testing.T) {
	r := newPrivate(t, PrivateConfig{})
	dev, _ := newTAP(t)
	if err := r.Private.Attach("c2", dev, tapInfo); err == nil {
		t.Error("attached what is not its endpoint")
	}
	bad := loopbackPort
	bad.Port = 666
	if _, err := r.Private.Publish([]portfwd.Spec{bad}); err != nil {
		t.Fatalf("published before the datapath can refuse it: %v", err)
	}
	if _, err := r.attach(); err == nil || !strings.Contains(err.Error(), "not this port") {
		t.Errorf("attach: %v", err)
	}
	if err := r.Private.Unpublish(r.Ports()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.attach(); err != nil {
		t.Fatalf("attach without it: %v", err)
	}
	_, err := r.Private.Publish([]portfwd.Spec{loopbackPort, bad})
	if err == nil || !strings.Contains(err.Error(), "not this port") {
		t.Errorf("publish: %v", err)
	}
	if len(r.Ports()) != 0 || r.holds("private")["endpoint c1 []"] != 1 || len(r.holds("private")) != 1 {
		t.Errorf("left: %v, %v", r.Ports(), r.holds("private"))
	}
	if got := r.Private.Status(); got.State != Running || got.Restarts != 0 {
		t.Errorf("status %+v", got)
	}
}

func TestPrivateFails(t *testing.T) {
	r := newPrivate(t, PrivateConfig{Network: spec.Network{Name: "refuse"}})
	if _, err := r.attach(); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("refused network: %v", err)
	}
	r = newPrivate(t, PrivateConfig{}, func(c *Config) { c.Datapath.Exe = "/nonexistent/usernet" })
	if _, err := r.attach(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no binary: %v", err)
	}
	<-r.Private.Done()
	if err := r.Private.Err(); err == nil || r.Private.Status().State != Failed {
		t.Errorf("%v, %v", err, r.Private.Status())
	}
}

// FT-20: a private Network is the same after a restart of its datapath, hosts and capture included.
func TestPrivateRestart(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newPrivate(t, PrivateConfig{
		Capture: f, Publish: []portfwd.Spec{loopbackPort},
		Hosts: map[string][]netip.Addr{"db": {netip.MustParseAddr("10.0.0.9")}},
	})
	if _, err := r.attach(); err != nil {
		t.Fatal(err)
	}
	r.waitRunning()
	syscall.Kill(r.Private.Status().PID, syscall.SIGKILL)
	r.wantFetch(r.Ports()[0], "web")
	r.waitRunning()
	if h := r.holds("private"); h["host db [10.0.0.9]"] != 1 || len(h) != 3 {
		t.Errorf("holds %v", h)
	}
	if b, _ := os.ReadFile(f.Name()); string(b) != "false\ntrue\n" {
		t.Errorf("captured %q", b)
	}
}

func TestPrivateCloseLeavesNothing(t *testing.T) {
	cycle := func(attach bool) {
		r := newPrivate(t, PrivateConfig{Publish: []portfwd.Spec{loopbackPort}})
		s := r.publish()
		if attach {
			if _, err := r.attach(); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := r.Private.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := fetch(s); !errors.Is(err, syscall.ECONNREFUSED) || len(r.Ports()) != 0 {
			t.Errorf("the listener lives: %v, %v", err, r.Ports())
		}
		if _, err := r.Private.Publish([]portfwd.Spec{s}); !errors.Is(err, ErrClosed) {
			t.Errorf("publish after close: %v", err)
		}
	}
	cycle(true)
	before := openFiles(t)
	for i := range 4 {
		cycle(i%2 == 0)
	}
	goleak.VerifyNone(t)
	// A cycle keeps the log, and when it attaches the other end of the TAP.
	if after := openFiles(t) - 6; after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestMatches(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	bound := portfwd.Spec{Proto: portfwd.TCP, HostIP: lo, HostPort: 80, Port: 8080}
	for _, row := range []struct {
		q    portfwd.Spec
		want bool
	}{
		{bound, true},
		{portfwd.Spec{Proto: portfwd.TCP, HostPort: 80}, true},
		{portfwd.Spec{Proto: portfwd.TCP, HostPort: 80, Port: 8080}, true},
		{portfwd.Spec{Proto: portfwd.UDP, HostPort: 80}, false},
		{portfwd.Spec{Proto: portfwd.TCP, HostPort: 81}, false},
		{portfwd.Spec{Proto: portfwd.TCP, HostPort: 80, Port: 81}, false},
		{portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.2"), HostPort: 80}, false},
	} {
		if got := matches(row.q, bound); got != row.want {
			t.Errorf("%v for %v: %v", row.q, bound, got)
		}
	}
}

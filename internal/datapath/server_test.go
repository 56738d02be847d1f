package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// loop is both ends of the socket in one process.
type loop struct {
	*Process
	backend atomic.Pointer[fakeBackend] // after configure
	served  chan error                  // what serve returned
	events  chan Event
}

func newLoop(t *testing.T) *loop {
	t.Helper()
	a, b, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := newConn(a)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := newConn(b)
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{served: make(chan error, 1), events: make(chan Event, 8)}
	l.Process = &Process{
		c: ours, event: func(e Event) { l.events <- e },
		waiting: make(map[uint64]chan message), readDone: make(chan struct{}), done: make(chan struct{}),
	}
	l.wg.Go(l.readReplies)
	s := newServer(theirs, func(n spec.Network, o Options) (Backend, error) {
		f, err := newFake(n, o)
		if err == nil {
			l.backend.Store(f.(*fakeBackend))
		}
		return f, err
	}, confine.Report{LandlockABI: 6}, slog.New(slog.DiscardHandler))
	go func() {
		err := s.serve()
		s.close()
		theirs.close()
		l.served <- err
	}()
	t.Cleanup(l.release)
	return l
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRequestsReachBackend(t *testing.T) {
	l := newLoop(t)
	ctx := t.Context()
	h, err := l.Hello(ctx)
	if err != nil || h.Version != ProtocolVersion || h.Confine.LandlockABI != 6 {
		t.Fatalf("hello: %+v, %v", h, err)
	}
	f := tempFile(t)
	s := portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 5000, Port: 80}
	for _, err := range []error{
		l.Configure(ctx, spec.Network{Name: "n"}),
		l.SetDNS(ctx, dnsproxy.Config{Upstreams: []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%3]:53")}}),
		l.Attach(ctx, spec.Endpoint{ID: "e"}, f, tap.Info{Name: "eth0"}),
		l.Publish(ctx, "p", s, f, "e"),
		l.Capture(ctx, f, true),
		l.HostChanged(ctx),
		l.Unpublish(ctx, "p"),
		l.Detach(ctx, "e"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if st, err := l.Stats(ctx); err != nil || st.TCPFlows != 7 {
		t.Errorf("stats: %+v, %v", st, err)
	}
	// Requests borrow their file.
	if _, err := f.WriteString("still ours"); err != nil {
		t.Error(err)
	}
	if err := l.call(ctx, kindShutdown, nil, nil, nil); err != nil {
		t.Error(err)
	}
	if err := <-l.served; err != nil {
		t.Errorf("serve: %v", err)
	}
	want := []string{
		"dns [[fe80::1%3]:53] map[]", "attach e eth0", "publish p 127.0.0.1:5000:80/tcp e", "capture true",
		"host changed", "unpublish p", "detach e", "close",
	}
	if d := cmp.Diff(want, l.backend.Load().told()); d != "" {
		t.Error(d)
	}
}

func TestRefusalLeavesProcessAlive(t *testing.T) {
	l := newLoop(t)
	ctx := t.Context()
	f := tempFile(t)
	var refused *RefusedError
	check := func(name, part string, err error) {
		t.Helper()
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want a refusal with %q", name, err, part)
		}
	}
	check("before configure", "not configured", l.HostChanged(ctx))
	check("file before configure", "not configured", l.Attach(ctx, spec.Endpoint{ID: "e"}, f, tap.Info{}))
	check("other version", "version 99", l.call(ctx, kindHello, helloRequest{Version: 99}, nil, nil))
	check("backend's constructor", "not today", l.Configure(ctx, spec.Network{Name: "refuse"}))
	if err := l.Configure(ctx, spec.Network{}); err != nil {
		t.Fatal(err)
	}
	check("configured twice", "already", l.Configure(ctx, spec.Network{}))
	check("backend", "not today", l.Attach(ctx, spec.Endpoint{ID: "refuse"}, f, tap.Info{}))
	check("unknown kind", "unknown kind", l.call(ctx, "teapot", nil, nil, nil))
	check("unknown kind with a file", "unknown kind", l.call(ctx, "teapot", nil, f, nil))
	check("no file", "descriptor is missing", l.call(ctx, kindAttach, attachRequest{}, nil, nil))
	check("file too many", "descriptor came", l.call(ctx, kindStats, nil, f, nil))
	check("body of another type", "decode", l.call(ctx, kindAttach, []int{1}, f, nil))
	check("no body", "decode", l.call(ctx, kindDetach, nil, nil, nil))
	if err := l.HostChanged(ctx); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if d := cmp.Diff([]string{"host changed"}, l.backend.Load().told()); d != "" {
		t.Error(d)
	}
}

func TestNonsenseEndsServe(t *testing.T) {
	for name, b := range map[string]string{"no JSON": "attach", "no kind": "{}", "a number": "7"} {
		l := newLoop(t)
		if err := sys.SendMessage(l.c.rc, []byte(b)); err != nil {
			t.Fatal(err)
		}
		if err := <-l.served; err == nil {
			t.Errorf("%s: serve went on", name)
		}
	}
	l := newLoop(t)
	f := tempFile(t)
	if err := sys.SendMessage(l.c.rc, []byte(`{"kind":"attach"}`), f, f); err != nil {
		t.Fatal(err)
	}
	if err := <-l.served; err == nil || !strings.Contains(err.Error(), "2 descriptors") {
		t.Errorf("two descriptors: %v", err)
	}
}

func TestTooLongIsNotSent(t *testing.T) {
	l := newLoop(t)
	if err := l.Configure(t.Context(), spec.Network{}); err != nil {
		t.Fatal(err)
	}
	err := l.Attach(t.Context(), spec.Endpoint{Names: []string{strings.Repeat("x", MaxMessage)}}, tempFile(t), tap.Info{})
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("attach: %v", err)
	}
	if err := l.HostChanged(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEventsArrive(t *testing.T) {
	l := newLoop(t)
	if err := l.Configure(t.Context(), spec.Network{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(t.Context(), spec.Endpoint{ID: "event"}, tempFile(t), tap.Info{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Event{Kind: EventEndpointDown, ID: "event", Cause: "gone"}, <-l.events); d != "" {
		t.Error(d)
	}
}

func TestCallEndsWithContextAndSocket(t *testing.T) {
	l := newLoop(t)
	if err := l.Configure(t.Context(), spec.Network{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() { answered <- l.Attach(ctx, spec.Endpoint{ID: "hang"}, tempFile(t), tap.Info{}) }()
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	l.release()
	if err := l.HostChanged(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("after the socket: %v", err)
	}
}

// FZ-17: whatever comes in a message, decoding and serving it never panic, an accepted message is
// the same after another round, and the descriptor that came with a refused one is closed.
func FuzzMessage(f *testing.F) {
	for k := range carriesFile {
		b, _ := json.Marshal(message{ID: 1, Kind: k, Body: json.RawMessage(`{"id":"a","version":1}`)})
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Add([]byte(`{"kind":"attach","body":{"endpoint":{"mac":"02:00:00:00:00:01","addrs":["10.0.2.100"]},"tap":{"mtu":1500}}}`), true)
	f.Add([]byte(`{"kind":"publish","body":{"spec":{"proto":"tcp","host_ip":"::1"}}}`), true)
	f.Fuzz(func(t *testing.T, b []byte, withFile bool) {
		m, err := decode(b)
		if err != nil {
			return
		}
		again, err := encode(m)
		if err != nil {
			t.Skip() // JSON may grow when it is written anew
		}
		if m2, err := decode(again); err != nil || m2.ID != m.ID || m2.Kind != m.Kind {
			t.Fatalf("decoded %+v, then %+v, %v", m, m2, err)
		}
		for _, configured := range []bool{false, true} {
			s := &server{new: newFake, log: slog.New(slog.DiscardHandler), events: make(chan Event, 1)}
			if configured {
				s.backend = &fakeBackend{o: Options{Event: s.event, Log: s.log}}
			}
			var file *os.File
			if withFile {
				file, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(string(m.Body), "hang") || strings.Contains(string(m.Body), "panic") {
				return // the fake's own tricks
			}
			s.handle(m, file)
			if file != nil && !errors.Is(file.Close(), os.ErrClosed) {
				t.Fatalf("%s: the descriptor is still open", fmt.Sprint(m.Kind))
			}
		}
	})
}

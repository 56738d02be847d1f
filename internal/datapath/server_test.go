package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// loop is both ends of the socket in one process.
type loop struct {
	*Process
	host   *fakeHost
	served chan error // what serve returned
	events chan Event
}

func newLoop(t testing.TB) *loop {
	t.Helper()
	a, b, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := wire.New(a, MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := wire.New(b, MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{host: newFakeHost(slog.New(slog.DiscardHandler)), served: make(chan error, 1), events: make(chan Event, 8)}
	l.Process = newProcess(ours, func(e Event) { l.events <- e })
	l.wg.Go(l.readReplies)
	own, err := build()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(l.host, own, confine.Report{LandlockABI: 6}, l.host.log)
	l.wg.Go(func() {
		err := s.live(theirs, nil)
		s.close()
		theirs.Close()
		l.served <- err
	})
	t.Cleanup(l.release)
	return l
}

// add makes a Network.
func (l *loop) add(t testing.TB, id string) {
	t.Helper()
	if err := l.Do(t.Context(), AddNetwork(spec.Network{ID: id}, nil)); err != nil {
		t.Fatal(err)
	}
}

func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestRequestsReachTheirNetwork(t *testing.T) {
	l := newLoop(t)
	ctx := t.Context()
	h, err := l.Hello(ctx)
	if err != nil || h.Version != ProtocolVersion || h.Confine.LandlockABI != 6 {
		t.Fatalf("hello: %+v, %v", h, err)
	}
	f := tempFile(t)
	s := portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 5000, Port: 80}
	hosts := map[string][]netip.Addr{"db": {netip.MustParseAddr("10.0.0.9")}}
	all := slices.Concat(
		Reserve([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}),
		[]Request{
			SetUpstreams([]netip.AddrPort{netip.MustParseAddrPort("[fe80::1%3]:53")}),
			AddNetwork(spec.Network{ID: "a"}, hosts),
			AddNetwork(spec.Network{ID: "b"}, nil),
			Attach("a", spec.Endpoint{ID: "e"}, f, tap.Info{Name: "eth0"}),
			Attach("b", spec.Endpoint{ID: "e"}, f, tap.Info{Name: "eth1"}),
			Update("a", spec.Endpoint{ID: "e", Names: []string{"web"}}),
			Publish("b", "p", s, f, "e"),
			Capture("b", f, true),
			HostChanged(),
			SetUpstreams(nil),
			Unpublish("b", "p"),
			Detach("b", "e"),
			RemoveNetwork("b"),
			HostChanged(),
		},
		Release([]netip.Prefix{netip.MustParsePrefix("fd00::/64")}),
	)
	for _, r := range all {
		if err := l.Do(ctx, r); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	if st, err := l.Stats(ctx, "a"); err != nil || st.TCPFlows != 7 {
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
	for id, want := range map[string][]string{
		"a": {"dns [[fe80::1%3]:53] map[db:[10.0.0.9]]", "attach e eth0", "update e [web]", "host changed",
			"dns [] map[db:[10.0.0.9]]", "host changed", "close"},
		"b": {"dns [[fe80::1%3]:53] map[]", "attach e eth1", "publish p 127.0.0.1:5000:80/tcp e", "capture true", "host changed",
			"dns [] map[]", "unpublish p", "detach e", "close"},
	} {
		prefixes, calls := l.host.told(id)
		if d := cmp.Diff(want, calls); d != "" {
			t.Errorf("%s: %s", id, d)
		}
		if d := cmp.Diff([]string{"reserve [10.0.0.0/24 fd00::/64]", "release [fd00::/64]"}, prefixes); d != "" {
			t.Error(d)
		}
	}
}

func TestRefusalLeavesProcessAlive(t *testing.T) {
	l := newLoop(t)
	ctx := t.Context()
	f := tempFile(t)
	l.add(t, "n")
	add := func(n spec.Network) error { return l.Do(ctx, AddNetwork(n, nil)) }
	stats := func() error { _, err := l.Stats(ctx, "m"); return err }
	long := spec.Endpoint{ID: "long", Names: []string{strings.Repeat("x", MaxMessage)}}
	for name, row := range map[string]struct {
		err  error
		part string
	}{
		"other version":        {l.call(ctx, kindHello, helloRequest{Version: 99}, nil, nil), "version 99"},
		"host's constructor":   {add(spec.Network{ID: "m", Name: "refuse"}), "not today"},
		"twice":                {add(spec.Network{ID: "n"}), "already"},
		"without an id":        {add(spec.Network{}), "no id"},
		"backend":              {l.Do(ctx, Attach("n", spec.Endpoint{ID: "refuse"}, f, tap.Info{})), "not today"},
		"backend's update":     {l.Do(ctx, Update("n", spec.Endpoint{ID: "refuse"})), "not today"},
		"host's reserve":       {l.Do(ctx, Reserve([]netip.Prefix{{}})[0]), "nothing"},
		"host's release":       {l.Do(ctx, Release([]netip.Prefix{{}})[0]), "nothing"},
		"attach to nobody":     {l.Do(ctx, Attach("m", spec.Endpoint{ID: "e"}, f, tap.Info{})), "there is none"},
		"publish for nobody":   {l.Do(ctx, Publish("m", "p", portfwd.Spec{}, f, "e")), "there is none"},
		"capture of nobody":    {l.Do(ctx, Capture("m", f, false)), "there is none"},
		"update of nobody":     {l.Do(ctx, Update("m", spec.Endpoint{ID: "e"})), "there is none"},
		"detach from nobody":   {l.Do(ctx, Detach("m", "e")), "there is none"},
		"unpublish of nobody":  {l.Do(ctx, Unpublish("m", "p")), "there is none"},
		"remove nobody":        {l.Do(ctx, RemoveNetwork("m")), "there is none"},
		"stats of nobody":      {stats(), "there is none"},
		"unknown kind":         {l.call(ctx, "teapot", nil, nil, nil), "unknown kind"},
		"unknown kind, a file": {l.call(ctx, "teapot", nil, f, nil), "unknown kind"},
		"no file":              {l.call(ctx, kindAttach, attachRequest{Network: "n"}, nil, nil), "descriptor is missing"},
		"file too many":        {l.call(ctx, kindStats, nil, f, nil), "descriptor came"},
		"body of another type": {l.call(ctx, kindAttach, []int{1}, f, nil), "decode"},
		"no body":              {l.call(ctx, kindDetach, nil, nil, nil), "decode"},
		"too long to be asked": {l.Do(ctx, Attach("n", long, f, tap.Info{})), "too long"},
	} {
		if _, refused := errors.AsType[*RefusedError](row.err); !refused || !strings.Contains(row.err.Error(), row.part) {
			t.Errorf("%s: %v, want a refusal with %q", name, row.err, row.part)
		}
	}
	if err := l.Do(ctx, HostChanged()); err != nil {
		t.Errorf("after all that: %v", err)
	}
	prefixes, calls := l.host.told("n")
	if d := cmp.Diff([]string{"dns [] map[]", "host changed"}, calls); d != "" || len(prefixes) > 0 {
		t.Error(d, prefixes)
	}
}

func TestNonsenseEndsServe(t *testing.T) {
	for name, m := range map[string]any{"no kind": message{}, "a number": 7, "a list": []int{1}} {
		l := newLoop(t)
		if err := l.c.Send(m); err != nil {
			t.Fatal(err)
		}
		if err := <-l.served; err == nil {
			t.Errorf("%s: serve went on", name)
		}
	}
	l := newLoop(t)
	f := tempFile(t)
	if err := l.c.Send(message{Kind: kindAttach}, f, f); err != nil {
		t.Fatal(err)
	}
	if err := <-l.served; err == nil || !strings.Contains(err.Error(), "2 descriptors") {
		t.Errorf("two descriptors: %v", err)
	}
}

// More prefixes than a message holds are several messages.
func TestManyPrefixes(t *testing.T) {
	l := newLoop(t)
	var ps []netip.Prefix
	for i := range 2*maxPrefixes + 1 {
		a := netip.MustParseAddr("fd00:1111:2222:3333:4444:5555::").As16()
		a[14], a[15] = byte(i>>8), byte(i)
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom16(a), 128))
	}
	rs := Reserve(ps)
	for _, r := range rs {
		if err := l.Do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	l.add(t, "n")
	if told, _ := l.host.told("n"); len(rs) != 3 || len(told) != 3 {
		t.Errorf("%d requests, told %d times", len(rs), len(told))
	}
}

// RX-11: many requests at once are served in order, however many there are, and what is refused stops nothing.
func TestDoAll(t *testing.T) {
	l := newLoop(t)
	f := tempFile(t)
	l.add(t, "n")
	var want, refused []string
	requests := func(yield func(Request) bool) {
		for i := range 20 * window {
			ep := spec.Endpoint{ID: fmt.Sprint(i)}
			switch {
			case i%7 == 0:
				ep.ID = "refuse"
			case i%31 == 1:
				ep.Names = []string{strings.Repeat("x", MaxMessage)}
			default:
				want = append(want, fmt.Sprintf("attach %d eth0", i))
			}
			if !yield(Attach("n", ep, f, tap.Info{Name: "eth0"})) {
				return
			}
		}
	}
	err := l.DoAll(t.Context(), requests, func(r Request, err *RefusedError) { refused = append(refused, r.String()) })
	if err != nil {
		t.Fatal(err)
	}
	_, calls := l.host.told("n")
	if d := cmp.Diff(want, calls[1:]); d != "" {
		t.Error(d)
	}
	if n := 20*window - len(want); len(refused) != n || !slices.Contains(refused, "attach n/refuse") || !slices.Contains(refused, "attach n/1") {
		t.Errorf("refused %d, want %d: %q", len(refused), n, refused)
	}
	if l.mu.Lock(); len(l.waiting) != 0 {
		t.Errorf("%d requests still wait", len(l.waiting))
	}
	l.mu.Unlock()
}

// The end of the process ends DoAll, wherever it is.
func TestDoAllEndsWithProcess(t *testing.T) {
	l := newLoop(t)
	l.add(t, "n")
	requests := func(yield func(Request) bool) {
		for i := 0; ; i++ {
			r := HostChanged()
			if i == 3*window {
				r = Request{kind: kindShutdown}
			}
			if !yield(r) {
				return
			}
		}
	}
	err := l.DoAll(t.Context(), requests, func(Request, *RefusedError) { t.Error("refused") })
	if !errors.Is(err, ErrGone) {
		t.Errorf("do all: %v", err)
	}
}

func TestEventsArrive(t *testing.T) {
	l := newLoop(t)
	l.add(t, "n")
	if err := l.Do(t.Context(), Attach("n", spec.Endpoint{ID: "event"}, tempFile(t), tap.Info{})); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Event{Kind: EventEndpointDown, Network: "n", ID: "event", Cause: "gone"}, <-l.events); d != "" {
		t.Error(d)
	}
}

func TestCallEndsWithContextAndSocket(t *testing.T) {
	l := newLoop(t)
	l.add(t, "n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Do(ctx, HostChanged()); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	l.release()
	if err := l.Do(t.Context(), HostChanged()); !errors.Is(err, ErrGone) {
		t.Errorf("after the socket: %v", err)
	}
}

// FZ-17: whatever comes in a message, decoding and serving it never panic, a request
// that is refused changes no Network but its own, and every descriptor is closed.
func FuzzMessage(f *testing.F) {
	for k := range handlers {
		b, _ := json.Marshal(message{ID: 1, Kind: k, Body: json.RawMessage(`{"network":"n","id":"a","version":1}`)})
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Add([]byte(`{"kind":"attach","body":{"network":"n","endpoint":{"mac":"02:00:00:00:00:01","addrs":["10.0.2.100"]},"tap":{"mtu":1500}}}`), true)
	f.Add([]byte(`{"kind":"publish","body":{"network":"n","spec":{"proto":"tcp","host_ip":"::1"}}}`), true)
	f.Add([]byte(`{"kind":"add-network","body":{"network":{"id":"m"},"hosts":{"a":["::1"]}}}`), false)
	f.Add([]byte(`{"kind":"reserve","body":{"prefixes":["10.0.0.0/8",""]}}`), false)
	f.Add([]byte(`{"kind":"inventory","body":{"after":-1}}`), false)
	f.Fuzz(func(t *testing.T, b []byte, withFile bool) {
		var m message
		if json.Unmarshal(b, &m) != nil {
			return
		}
		if strings.Contains(string(m.Body), "hang") || strings.Contains(string(m.Body), "panic") {
			return // the fake's own tricks
		}
		log := slog.New(slog.DiscardHandler)
		s := &server{host: newFakeHost(log), log: log, memory: newMemory(), networks: make(map[string]*network), held: newLedger(), events: make(chan Event, 1)}
		for _, id := range []string{"n", "other"} {
			if _, err := s.handle(message{Kind: kindAddNetwork, Body: json.RawMessage(`{"network":{"id":"` + id + `"}}`)}, nil); err != nil {
				t.Fatal(err)
			}
		}
		var file *os.File
		if withFile {
			var err error
			if file, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.handle(m, file)
		if file != nil && !errors.Is(file.Close(), os.ErrClosed) {
			t.Fatalf("%s: the descriptor is still open", m.Kind)
		}
		if err != nil && !errors.Is(err, errShutdown) && (len(s.networks) != 2 || s.upstreams != nil) {
			t.Fatalf("%s: refused with %v, yet there are %d networks", m.Kind, err, len(s.networks))
		}
	})
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/portfwd"
)

func TestPortsOverSocket(t *testing.T) {
	d := openTest(t)
	_, s := serve(t, d, "web")
	ctx := t.Context()
	p := portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("::1"), HostPort: 8080, Port: 80}
	bound, err := d.AddPorts(ctx, "web", []portfwd.Spec{p})
	if err != nil || !slices.Equal(bound, []portfwd.Spec{p}) || !slices.Equal(s.Ports(), bound) {
		t.Errorf("added %v, %v; there is %v", bound, err, s.Ports())
	}
	if got, err := d.Ports(ctx, "web"); err != nil || !slices.Equal(got, bound) {
		t.Errorf("ports %v, %v", got, err)
	}
	var api *APIError
	if _, err := d.AddPorts(ctx, "web", []portfwd.Spec{{Proto: portfwd.TCP, HostPort: 1, Port: 1}}); !errors.As(err, &api) || api.Status != 409 || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a port in use: %v", err)
	}
	if err := d.RemovePorts(ctx, "web", bound); err != nil || len(s.Ports()) != 0 {
		t.Errorf("removed: %v, left %v", err, s.Ports())
	}
	if err := d.RemovePorts(ctx, "web", bound); !errors.As(err, &api) || api.Status != 404 {
		t.Errorf("removed twice: %v", err)
	}
	if _, err := d.AddPorts(ctx, "web", nil); !errors.As(err, &api) || api.Status != 400 {
		t.Errorf("no ports: %v", err)
	}
	if st, err := d.Stats(ctx, "web"); err != nil || st.TCPFlows != 3 {
		t.Errorf("stats %+v, %v", st, err)
	}
	if _, err := d.Ports(ctx, "gone"); err == nil {
		t.Error("asked one that is not there")
	}
}

// dial connects as a client that need not keep to any rule.
func dial(t *testing.T, d *Dir) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(d.Path(), sandboxesDir, "web", socketName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// post sends a body as it is and returns the status.
func post(t *testing.T, d *Dir, body io.Reader) int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(t, d), nil }}
	resp, err := (&http.Client{Transport: tr}).Post("http://sandbox/v1/ports", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// zeros is a body without an end, in a JSON string so that the reader must go on.
type zeros struct{ begun bool }

func (z *zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	if !z.begun {
		z.begun = true
		return copy(b, `{"ports":"`), nil
	}
	return len(b), nil
}

// LU-06: what a client sends is bounded, costs little, and is answered for what it is.
func TestAbuse(t *testing.T) {
	d := openTest(t)
	_, s := serve(t, d, "web")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, row := range map[string]struct {
		body io.Reader
		want int
	}{
		"endless body":  {io.LimitReader(&zeros{}, 1<<30), 413},
		"deep nesting":  {strings.NewReader(strings.Repeat(`{"ports":[`, 10_000)), 400},
		"no JSON":       {strings.NewReader("port 80"), 400},
		"empty":         {strings.NewReader(""), 400},
		"unknown field": {strings.NewReader(`{"ports":[],"path":"../x"}`), 400},
		"two values":    {strings.NewReader(`{"ports":[{"proto":"tcp","port":1}]}{}`), 400},
		"port too high": {strings.NewReader(`{"ports":[{"proto":"tcp","port":70000}]}`), 400},
	} {
		if got := post(t, d, row.body); got != row.want {
			t.Errorf("%s: %d, want %d", name, got, row.want)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	c := dial(t, d)
	go func() { // the server may hang up before it has read all
		fmt.Fprint(c, "GET /v1/ports HTTP/1.1\r\nHost: x\r\n")
		for i := range 10_000 {
			if _, err := fmt.Fprintf(c, "X-%d: y\r\n", i); err != nil {
				return
			}
		}
	}()
	head := make([]byte, 12)
	if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 431" {
		t.Errorf("10 000 headers: %q, %v", head, err)
	}
	if len(s.Ports()) != 0 {
		t.Errorf("something was published: %v", s.Ports())
	}
}

// 500 clients that say nothing do not keep another one waiting.
func TestSilentClients(t *testing.T) {
	d := openTest(t)
	serve(t, d, "web")
	for range 500 {
		c := dial(t, d)
		fmt.Fprint(c, "GET /v1")
	}
	var worst time.Duration
	for range 50 {
		began := time.Now()
		if _, err := d.Ports(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(began))
	}
	// LU-06 says 100 ms; a machine busy with other tests gets more. Who waits for those 500 waits for their time-outs.
	if worst > 5*time.Second {
		t.Errorf("another client waited %v", worst)
	}
}

// Close does not wait for clients that say nothing, and refuses the next.
func TestCloseEndsClients(t *testing.T) {
	d := openTest(t)
	r, _ := serve(t, d, "web")
	c := dial(t, d)
	fmt.Fprint(c, "GET /v1")
	if _, err := d.Ports(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
	if _, err := d.Ports(t.Context(), "web"); err == nil {
		t.Error("it still answers")
	}
}

// A sandbox is ended through its shim; what is no signal is refused.
func TestSignal(t *testing.T) {
	d := openTest(t)
	var got []syscall.Signal
	r, err := d.Reserve("web")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.OnSignal(func(s syscall.Signal) error {
		if s == syscall.SIGHUP {
			return syscall.ESRCH
		}
		got = append(got, s)
		return nil
	})
	if err := r.Serve(Entry{}, newSandbox(), nil); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := d.Signal(ctx, "web", s); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}) {
		t.Errorf("signals %v", got)
	}
	serve(t, d, "deaf")
	for _, row := range []struct {
		name   string
		sig    syscall.Signal
		status int
	}{{"web", 0, 400}, {"web", 65, 400}, {"web", -1, 400}, {"web", syscall.SIGHUP, 500}, {"deaf", syscall.SIGTERM, 409}} {
		var api *APIError
		if err := d.Signal(ctx, row.name, row.sig); !errors.As(err, &api) || api.Status != row.status {
			t.Errorf("%s %d: %v", row.name, row.sig, err)
		}
	}
}

// A sandbox is found by id, name, beginning of its id, process id, in Docker's order.
func TestFind(t *testing.T) {
	a, b := strings.Repeat("a", 64), "aa11"+strings.Repeat("b", 60)
	list := []Entry{
		{ID: a, Name: "one", PID: 10, ShimPID: 11},
		{ID: b, Name: "two", PID: 20, ShimPID: 21},
		{ID: "11" + strings.Repeat("c", 62), Name: "aaa", PID: 30, ShimPID: 31},
	}
	for ref, want := range map[string]string{
		a: "one", "one": "one", "aa1": "two", "aaa": "aaa", "11": "aaa", "20": "two", "31": "aaa",
	} {
		if e, err := find(list, ref); err != nil || e.Name != want {
			t.Errorf("%s: %s, %v, want %s", ref, e.Name, err, want)
		}
	}
	for ref, want := range map[string]error{"aa": ErrAmbiguous, "": ErrNotFound, "40": ErrNotFound, "x": ErrNotFound} {
		if _, err := find(list, ref); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
	}
}

func TestNewID(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b || len(a) != 64 || len(ShortID(a)) != 12 || CheckName(ShortID(a)) != nil {
		t.Errorf("%s, %s", a, b)
	}
}

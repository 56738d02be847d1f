package slirp4netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/portfwd"
)

var guest = netip.MustParseAddr("10.0.2.100")

// ports is a publisher in memory.
type ports struct {
	mu  sync.Mutex
	all []portfwd.Spec
}

func (p *ports) Publish(specs ...portfwd.Spec) ([]portfwd.Spec, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range specs {
		if slices.ContainsFunc(p.all, func(o portfwd.Spec) bool { return o.Proto == s.Proto && o.HostPort == s.HostPort }) {
			return nil, errors.New("address already in use")
		}
	}
	p.all = append(p.all, specs...)
	return specs, nil
}

func (p *ports) Unpublish(specs ...portfwd.Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range specs {
		i := slices.Index(p.all, s)
		if i < 0 {
			return errors.New("it is not published")
		}
		p.all = slices.Delete(p.all, i, i+1)
	}
	return nil
}

// serve starts an API and returns the path of its socket.
func serve(t *testing.T, patience time.Duration) (string, *ports) {
	t.Helper()
	p := &ports{}
	path := filepath.Join(t.TempDir(), "api")
	a, err := serveAPI(path, &forwards{to: p}, guest, patience, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return path, p
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a request as podman does and returns the answer.
func ask(t *testing.T, path, request string) string {
	t.Helper()
	c := dial(t, path)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bad is the answer to a request that is refused.
func bad(desc string) string { return fmt.Sprintf(`{"error":{"desc":"bad request: %s"}}`, desc) }

func TestAPI(t *testing.T) {
	path, p := serve(t, time.Minute)
	const entry1 = `{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}`
	const entry2 = `{"id":2,"proto":"udp","host_addr":"::1","host_port":53,"guest_addr":"fd00::15","guest_port":5353}`
	list := func(entries ...string) string {
		all := "[" + strings.Join(entries, ",") + "]"
		return `{"entries":` + all + `,"return":{"entries":` + all + `}}`
	}
	for _, row := range []struct{ request, want string }{
		{`{"execute":"list_hostfwd"}`, list()},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}`, `{"return":{"id":1}}`},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"","host_port":8080,"guest_addr":"","guest_port":80}}`,
			`{"error":{"cause":"address already in use","desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}`},
		{`{"execute":"add_hostfwd","arguments":{"proto":"udp4","host_addr":"::1","host_port":53.9,"guest_addr":"fd00::15","guest_port":5353}} and more`, `{"return":{"id":2}}`},
		{`{"execute":"list_hostfwd","arguments":7}`, list(entry1, entry2)},
		{`{"execute":"remove_hostfwd","arguments":{"id":1}}`, `{"return":{}}`},
		{`{"execute":"remove_hostfwd","arguments":{"id":1}}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"remove_hostfwd","arguments":{"id":"2"}}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"remove_hostfwd"}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"list_hostfwd"}`, list(entry2)},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8081,"guest_port":81}}`, `{"return":{"id":3}}`},
		{`{`, bad("cannot parse JSON")},
		{``, bad("cannot parse JSON")},
		{`{"execute":}`, bad("cannot parse JSON")},
		{`[]`, bad("json_object() failed")},
		{`"a"`, bad("json_object() failed")},
		{`null`, bad("json_object() failed")},
		{`{}`, bad("no execute found")},
		{`{"execute":1}`, bad("no execute found")},
		{`{"EXECUTE":"list_hostfwd"}`, bad("no execute found")},
		{`{"execute":"quit"}`, bad("unknown execute")},
		{`{"execute":"add_hostfwd"}`, bad("add_hostfwd: bad arguments.proto")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"sctp"}}`, bad("add_hostfwd: bad arguments.proto")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"x"}}`, bad("add_hostfwd: bad arguments.host_addr")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":7}}`, bad("add_hostfwd: bad arguments.host_addr")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp"}}`, bad("add_hostfwd: bad arguments.host_port")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":65536}}`, bad("add_hostfwd: bad arguments.host_port")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":-1}}`, bad("add_hostfwd: bad arguments.host_port")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":9,"guest_addr":"x"}}`, bad("add_hostfwd: bad arguments.guest_addr")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":9,"guest_addr":"0.0.0.0"}}`, bad("add_hostfwd: bad arguments.guest_addr")},
		{`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":9,"guest_port":"80"}}`, bad("add_hostfwd: bad arguments.guest_port")},
		{strings.Repeat(" ", maxRequest-1), bad("cannot parse JSON")},
		{strings.Repeat(" ", maxRequest), bad("too large message")},
		{strings.Repeat(" ", 3*maxRequest), bad("too large message")},
	} {
		if got := ask(t, path, row.request); got != row.want {
			t.Errorf("%.200s:\n got %s\nwant %s", row.request, got, row.want)
		}
	}
	want := []portfwd.Spec{
		{Proto: "udp", HostIP: netip.IPv6Loopback(), HostPort: 53, Port: 5353, To: netip.MustParseAddr("fd00::15")},
		{Proto: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: 8081, Port: 81, To: guest},
	}
	if !slices.Equal(p.all, want) {
		t.Errorf("published %v, want %v", p.all, want)
	}
}

// Who waits for the answer before closing gets it, in how many pieces the request may come.
func TestAPIWithoutHalfClose(t *testing.T) {
	path, _ := serve(t, time.Minute)
	c := dial(t, path)
	for _, part := range []string{`{"exe`, `cute":"list`, `_hostfwd"`, `}`} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(c)
	if err != nil || !json.Valid(b) || !strings.Contains(string(b), "entries") {
		t.Errorf("answer %s, %v", b, err)
	}
}

// Clients that say nothing, as many as are served less one, keep nobody waiting, and end the service no later.
func TestAPISlowClients(t *testing.T) {
	path, _ := serve(t, time.Hour)
	for range maxClients - 1 {
		if _, err := io.WriteString(dial(t, path), `{"execute":`); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(t, path, `{}`); got != bad("no execute found") {
		t.Errorf("answer %s", got)
	}
}

// A client that has begun a request and does not go on is told so.
func TestAPIPatience(t *testing.T) {
	path, _ := serve(t, time.Millisecond)
	c := dial(t, path)
	// It may have lost its patience before this is written, and have closed when it is.
	_, _ = io.WriteString(c, `{"execute":`)
	b, err := io.ReadAll(c)
	if len(b) > 0 && string(b) != bad("cannot parse JSON") {
		t.Errorf("answer %s, %v", b, err)
	}
}

func TestAPISocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api")
	log := slog.New(slog.DiscardHandler)
	// One that somebody left behind is replaced.
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	a, err := serveAPI(path, &forwards{to: &ports{}}, guest, time.Minute, log)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v, %v", st, err)
	}
	a.close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
	// A file of another kind is not.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serveAPI(path, nil, guest, time.Minute, log); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if _, err := serveAPI(filepath.Join(dir, strings.Repeat("x", 200)), nil, guest, time.Minute, log); err == nil || !strings.Contains(err.Error(), "more than 107") {
		t.Errorf("with a long path: %v", err)
	}
}

// Whatever is sent, there is one JSON object as the answer, and what it published is right.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}`,
		`{"execute":"list_hostfwd"}`, `{"execute":"remove_hostfwd","arguments":{"id":1}}`, `[]`, `{"execute":null,"arguments":[]}`,
		`{"execute":"add_hostfwd","arguments":{"proto":"udp","host_addr":"::","host_port":1e3,"guest_port":65535}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p := &ports{}
		value, err := readRequest(strings.NewReader(s))
		if err != nil {
			if len(value) != 0 {
				t.Errorf("%q beside %v", value, err)
			}
			return
		}
		b, err := json.Marshal(answer(value, &forwards{to: p}, guest))
		var o map[string]json.RawMessage
		if err != nil || json.Unmarshal(b, &o) != nil {
			t.Fatalf("answer %s, %v", b, err)
		}
		if _, failed := o["error"]; failed == (o["return"] != nil) {
			t.Errorf("answer %s", b)
		}
		for _, s := range p.all {
			if s.HostPort == 0 || s.Port == 0 || !s.HostIP.IsValid() || !s.To.IsValid() || s.HostIP.Is4In6() || s.HostIP.Zone() != "" {
				t.Errorf("published %+v", s)
			}
		}
	})
}

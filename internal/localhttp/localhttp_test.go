package localhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func deny(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not you", http.StatusForbidden) }

// start serves h on a socket, at most n connections at a time.
func start(t *testing.T, h http.Handler, n int) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, deny, nil)
	done := make(chan error, 1)
	go func() { done <- s.Serve(newListener(l, n)) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return socket
}

func client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })

// LU-01: a request of another user, or of nobody known, is refused; the kernel says who it is.
func TestLU01SameUser(t *testing.T) {
	for _, row := range []struct {
		peer any
		want int
	}{{os.Geteuid(), 200}, {os.Geteuid() + 1, 403}, {nil, 403}} {
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, row.peer))
		w := httptest.NewRecorder()
		sameUser(hello, deny).ServeHTTP(w, r)
		if w.Code != row.want {
			t.Errorf("peer %v: %d, want %d", row.peer, w.Code, row.want)
		}
	}
	resp, err := client(start(t, hello, 1)).Get("http://x/")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the same user: %v, %v", resp, err)
	}
	resp.Body.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// LU-06: a body has an end, and a header too.
func TestLU06Limits(t *testing.T) {
	type read struct {
		n   int64
		err error
	}
	got := make(chan read, 1)
	socket := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		got <- read{n, err}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}), MaxConns)
	resp, err := client(socket).Post("http://x/", "application/json", io.LimitReader(zeros{}, 1<<30))
	if err == nil { // the server may hang up while the client still sends
		resp.Body.Close()
	}
	r := <-got
	if _, ok := errors.AsType[*http.MaxBytesError](r.err); !ok || r.n != MaxBody {
		t.Errorf("read %d bytes, %v", r.n, r.err)
	}
	c := dial(t, socket)
	go func() {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n")
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
}

// LU-06: clients over the limit wait, and are served when one goes.
func TestLU06Connections(t *testing.T) {
	socket := start(t, hello, 1)
	first := dial(t, socket)
	fmt.Fprint(first, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := first.Read(make([]byte, 1)); err != nil { // it has the one slot
		t.Fatal(err)
	}
	second := dial(t, socket)
	fmt.Fprint(second, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the second client is served beside the first: %v", err)
	}
	first.Close()
	second.SetReadDeadline(time.Time{})
	b := make([]byte, 8)
	if _, err := io.ReadFull(second, b); err != nil || string(b) != "HTTP/1.1" {
		t.Errorf("after the first went: %q, %v", b, err)
	}
}

// The time for a body is not the time for a call: once it is read, the call may take as long as it likes, and ends when
// its client goes.
func TestBodyDeadline(t *testing.T) {
	var deadlines []bool
	w := deadlineRecorder{httptest.NewRecorder(), &deadlines}
	r := httptest.NewRequest("POST", "/", strings.NewReader("body"))
	r = r.WithContext(context.WithValue(r.Context(), peerKey{}, os.Geteuid()))
	sameUser(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(b, []byte("body")) {
			t.Errorf("read %q, %v", b, err)
		}
	}), deny).ServeHTTP(w, r)
	if len(deadlines) < 2 || !deadlines[0] || deadlines[len(deadlines)-1] {
		t.Errorf("deadlines set: %v, want one that is lifted", deadlines)
	}
}

type deadlineRecorder struct {
	*httptest.ResponseRecorder
	set *[]bool
}

func (d deadlineRecorder) SetReadDeadline(t time.Time) error {
	*d.set = append(*d.set, !t.IsZero())
	return nil
}

// Only unix sockets have peers.
func TestNoTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := NewListener(l).Accept(); err == nil {
		got.Close()
		t.Error("a TCP connection was accepted")
	}
}

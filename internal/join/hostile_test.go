package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
)

// raw is a connection to a Server without a Client.
func raw(t testing.TB, path string) *link {
	t.Helper()
	conn, err := newClient(path, testConfig(), Options{}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLink(conn)
	if err != nil {
		t.Fatal(err)
	}
	l.handle = func(r request) {
		r.close()
		_ = l.reply(r.message, nil, nil) // gone, perhaps
	}
	var wg sync.WaitGroup
	wg.Go(l.read)
	t.Cleanup(func() { conn.Close(); wg.Wait(); l.work.Wait() })
	return l
}

// What a shim should not say is refused, or ends its connection; it never hurts another sandbox.
func TestHostileShim(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	startDaemon(t, path, ctl)
	good, _ := dialTest(t, path, Options{})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	bound := listeners(t, 2)
	other := testConfig()
	other.ID = strings.Repeat("b2", 32)
	tcp := portfwd.Spec{Proto: portfwd.TCP, Port: 80, HostPort: 80}

	for _, row := range []struct {
		name string
		kind kind
		body any
		file *os.File
		want string
	}{
		{"before it joined", kindAttach, attachBody{}, null, "has not joined"},
		{"unknown request", "fly", nil, nil, "has not joined"},
		{"other version", kindJoin, joinBody{Version + 1, other}, nil, "speaks version"},
		{"other version, rejoin", kindRejoin, rejoinBody{Version: 0, Config: other}, nil, "speaks version"},
		{"another's id", kindJoin, joinBody{Version, testConfig()}, nil, "here already"},
		{"wrong body", kindJoin, []int{1}, nil, "decode join"},
		{"a device for a socket", kindKept, socketsBody{Ports: []portfwd.Spec{tcp}}, null, "take socket"},
		{"a datagram socket for TCP", kindKept, socketsBody{Ports: []portfwd.Spec{tcp}}, bound[1].File, "take socket"},
		{"another port's socket", kindKept, socketsBody{Ports: []portfwd.Spec{tcp}}, bound[0].File, "it is bound to 127.0.0.1:"},
		{"a socket too few", kindKept, socketsBody{Ports: []portfwd.Spec{tcp, tcp}}, bound[0].File, "1 came for 2"},
	} {
		l := raw(t, path)
		var files []*os.File
		if row.file != nil {
			files = append(files, row.file)
		}
		_, err := l.call(t.Context(), row.kind, row.body, files...)
		if _, refused := errors.AsType[*RefusedError](err); !refused || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.name, err)
		}
		wait(t, row.name+": the end of the connection", l.done)
	}

	// After a join too, and that one stays joined.
	l := raw(t, path)
	if _, err := l.call(t.Context(), kindJoin, joinBody{Version, other}); err != nil {
		t.Fatal(err)
	}
	for kind, body := range map[kind]any{
		kindJoin: joinBody{Version, other}, kindRejoin: rejoinBody{Version: Version, Config: other},
		kindKept: socketsBody{}, kindAttach: attachBody{}, "fly": nil, kindPlug: testLink("a", "b"),
	} {
		if _, err := l.call(t.Context(), kind, body); err == nil {
			t.Errorf("%s after a join was accepted", kind)
		}
	}
	if _, err := l.call(t.Context(), kindPorts, nil); err != nil {
		t.Error(err)
	}
	if _, err := good.Stats(t.Context()); err != nil {
		t.Error("another sandbox:", err)
	}
}

// Bytes that are no messages, bodies that are no memory files, and questions without end finish a connection.
func TestBrokenMessages(t *testing.T) {
	path := socketPath(t)
	startDaemon(t, path, &fakeController{})
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, send := range map[string]func(l *link) error{
		"a number":       func(l *link) error { return l.conn.Send(7) },
		"no body file":   func(l *link) error { return l.conn.Send(message{ID: 1, Kind: kindJoin, Large: true}) },
		"a file on disk": func(l *link) error { return l.conn.Send(message{ID: 1, Kind: kindJoin, Large: true}, file) },
		"a pipe":         func(l *link) error { return l.conn.Send(message{ID: 1, Kind: kindJoin, Large: true}, r) },
	} {
		l := raw(t, path)
		if err := send(l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wait(t, name+": the end", l.done)
	}
}

// Who asks without waiting for answers is cut off when more wait than may; the one before is not blocked.
func TestTooManyRequests(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{block: make(chan struct{})}
	startDaemon(t, path, ctl)
	l := raw(t, path)
	for i := range maxQueue + 2 {
		if err := l.send(message{ID: uint64(i + 1), Kind: kindJoin}, joinBody{Version, testConfig()}, nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			wait(t, "the join", ctl.block)
		}
	}
	wait(t, "the end of the connection", l.done)
	wait(t, "the end of the join", ctl.block)
}

// Large bodies that wait their turn are not in memory: 64 of 8 MiB would be half a gigabyte for each connection.
func TestQueuedBodiesStayPacked(t *testing.T) {
	a, b, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	client, err := newLink(a)
	if err != nil {
		t.Fatal(err)
	}
	server, err := newLink(b)
	if err != nil {
		t.Fatal(err)
	}
	const n = 4
	begun, goOn := make(chan struct{}, n), make(chan struct{})
	sizes := make(chan int, n)
	server.handle = func(r request) {
		defer r.close()
		begun <- struct{}{}
		<-goOn
		sizes <- len(r.Body)
		_ = server.reply(r.message, nil, nil)
	}
	var wg sync.WaitGroup
	wg.Go(server.read)
	wg.Go(client.read)
	t.Cleanup(func() { client.conn.Close(); server.conn.Close(); wg.Wait(); server.work.Wait() })
	var asked sync.WaitGroup
	large := idBody{strings.Repeat("x", 2*maxInline)}
	for range n {
		asked.Go(func() {
			if _, err := client.call(t.Context(), kindStarted, large); err != nil {
				t.Error(err)
			}
		})
	}
	wait(t, "the first", begun)
	eventually(t, "the others in the queue", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.queue) == n-1
	})
	server.mu.Lock()
	for _, r := range server.queue {
		if len(r.Body) > 0 || len(r.files) != 1 {
			t.Errorf("a request waits with %d bytes and %d files", len(r.Body), len(r.files))
		}
	}
	server.mu.Unlock()
	close(goOn)
	asked.Wait()
	for range n {
		if size := <-sizes; size < 2*maxInline {
			t.Errorf("handled a body of %d bytes", size)
		}
	}
}

// A shim that stands still costs who asks it a bounded time, and the daemon nothing.
func TestStuckShim(t *testing.T) {
	a, b, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close() // nobody reads it
	l, err := newLink(a)
	if err != nil {
		t.Fatal(err)
	}
	l.patience = 20 * time.Millisecond
	read := make(chan struct{})
	go func() {
		defer close(read)
		l.read()
	}()
	var last error
	for range 100 {
		if last = l.notify(kindFiles, filesBody{[]plumb.File{{Content: strings.Repeat("x", 20<<10)}}}); last != nil {
			break
		}
	}
	if !errors.Is(last, ErrGone) {
		t.Error("with a full socket:", last)
	}
	<-read
	if err := l.cause(); err == nil || !strings.Contains(err.Error(), "takes no messages") {
		t.Error("cause:", err)
	}
}

// FZ: whatever comes to a Server, it answers or ends the connection, and serves the next.
func FuzzServer(f *testing.F) {
	for _, m := range []message{
		{ID: 1, Kind: kindJoin, Body: encode(joinBody{Version, testConfig()})},
		{ID: 2, Kind: kindRejoin, Body: encode(rejoinBody{Version: Version, Config: testConfig()})},
		{ID: 3, Kind: kindKept, Body: encode(socketsBody{Ports: []portfwd.Spec{{Port: 1}}})},
		{ID: 4, Kind: kindAttach, Body: encode(attachBody{Endpoint: "e"})},
		{ID: 5, Kind: kindPublish, Body: encode(portsBody{[]portfwd.Spec{{Port: 1}}})},
		{ID: 6, Kind: kindReply, Error: &failure{Message: "no"}},
		{Kind: kindLeave}, {Kind: kindJoin, Large: true},
	} {
		f.Add([]byte(encode(m)), []byte(encode(message{ID: 9, Kind: kindStats})))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ours, theirs, err := sys.Socketpair()
		if err != nil {
			t.Fatal(err)
		}
		ss := serverOn(t, &fakeController{}, ours)
		ss.start()
		feed(theirs, first, second)
		ss.s.wg.Wait()
		if ss.sandbox != nil {
			wait(t, "the sandbox's end", ss.sandbox.(*fakeSandbox).closed)
		}
	})
}

// FZ: whatever a daemon says, the shim lives.
func FuzzClient(f *testing.F) {
	for _, m := range []message{
		{ID: 1, Kind: kindPlug, Body: encode(cnm.RejoinEndpoint{NetworkID: "n", Link: testLink("ep1", "eth1")})},
		{ID: 2, Kind: kindUnplug, Body: encode(idBody{"ep1"})},
		{ID: 3, Kind: kindRoutes, Body: encode(plumb.Routes{Default4: plumb.Hop{Dev: "eth0"}})},
		{ID: 4, Kind: kindFiles, Body: encode(filesBody{[]plumb.File{{Path: "/etc/hosts"}}})},
		{ID: 5, Kind: kindKeep, Body: encode(socketsBody{First: true, Last: true})},
		{Kind: kindGoodbye}, {ID: 1, Kind: kindReply, Body: encode(joinedBody{})},
	} {
		f.Add([]byte(encode(m)), []byte(encode(message{ID: 9, Kind: kindPorts})))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ours, theirs, err := sys.Socketpair()
		if err != nil {
			t.Fatal(err)
		}
		c := newClient("", testConfig(), Options{pauses: quick})
		s, err := c.open(ours)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.runLocked(s.l)
		c.mu.Unlock()
		startShim(t, c)
		feed(theirs, first, second)
		<-s.l.done
		c.mu.Lock()
		c.turnLocked(control.Closed)
		c.mu.Unlock()
		s.close()
		if taps, links := keeps(c); len(links) > 2 || len(links) != len(taps) {
			t.Errorf("links %v, TAPs %v", links, taps)
		}
	})
}

func encode(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprint("encode: ", err))
	}
	return b
}

// feed writes messages as they are and ends the connection, reading what comes back.
func feed(f *os.File, msgs ...[]byte) {
	rc, err := f.SyscallConn()
	if err != nil {
		panic(err)
	}
	for _, m := range msgs {
		if len(m) > 0 && len(m) < 64<<10 {
			_ = sys.SendMessage(rc, m) // ended already, perhaps
		}
	}
	f.Close()
}

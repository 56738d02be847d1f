package wire

import (
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

const patience = 10 * time.Second

func newPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// polled returns a connection in p and its other side.
func polled(t testing.TB, p *Poller) (c *Conn, s *Polled, far *Conn) {
	t.Helper()
	ours, theirs, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	if far, err = New(theirs, 0); err != nil {
		t.Fatal(err)
	}
	if s, err = p.Add(ours); err != nil {
		t.Fatal(err)
	}
	if c, err = New(s, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, s, far
}

// await returns what is closed when it wakes.
func await(t testing.TB, s *Polled) <-chan struct{} {
	t.Helper()
	woken := make(chan struct{})
	if err := s.Await(func() { close(woken) }); err != nil {
		t.Fatal(err)
	}
	return woken
}

func within(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatal("no", what)
	}
}

// A message wakes, one that was there before too, and so does the end; nothing is lost between.
func TestPolledWakes(t *testing.T) {
	p := newPoller(t)
	c, s, far := polled(t, p)
	var got note
	if _, err := c.Receive(&got); !errors.Is(err, ErrNothing) {
		t.Fatalf("receive: %v", err)
	}
	woken := await(t, s)
	if err := far.Send(note{N: 1}, tempFile(t, "x")); err != nil {
		t.Fatal(err)
	}
	within(t, "waking for a message", woken)
	files, err := c.Receive(&got)
	if err != nil || got.N != 1 || len(files) != 1 {
		t.Fatalf("received %+v with %d files, %v", got, len(files), err)
	}
	closeAll(files)
	for n := range 2 {
		if err := far.Send(note{N: n}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 2 {
		within(t, "waking for what is there", await(t, s))
		if _, err := c.Receive(&got); err != nil || got.N != n {
			t.Fatalf("received %+v, %v", got, err)
		}
	}
	woken = await(t, s)
	far.Close()
	within(t, "waking for the end", woken)
	if _, err := c.Receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	within(t, "waking after the end", await(t, s))
}

// Close wakes who waits, once, and nobody may wait afterwards.
func TestPolledClose(t *testing.T) {
	p := newPoller(t)
	c, s, far := polled(t, p)
	woken := await(t, s)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "waking by Close", woken)
	if _, err := c.Receive(&note{}); !Gone(err) || errors.Is(err, io.EOF) {
		t.Errorf("receive: %v", err)
	}
	if err := c.Send(note{}); !Gone(err) {
		t.Errorf("send: %v", err)
	}
	if err := s.Await(func() { t.Error("woken after Close") }); !Gone(err) {
		t.Errorf("await: %v", err)
	}
	if err := c.Close(); !Gone(err) {
		t.Errorf("close again: %v", err)
	}
	if _, err := far.Receive(&note{}); !errors.Is(err, io.EOF) {
		t.Errorf("the other side: %v", err)
	}
}

// fill sends until there is no room.
func fill(c *Conn) error {
	for {
		if err := c.Send(note{Text: strings.Repeat("x", 1000)}); err != nil {
			return err
		}
	}
}

// A send that finds no room waits for it, until its deadline, or until the connection is closed.
func TestPolledSend(t *testing.T) {
	p := newPoller(t)
	c, _, far := polled(t, p)
	if err := c.SetSendDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := fill(c); !errors.Is(err, os.ErrDeadlineExceeded) || Gone(err) {
		t.Errorf("without room: %v", err)
	}
	if err := c.SetSendDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- c.Send(note{N: 7}) }()
	var got note
	for got.N != 7 {
		if _, err := far.Receive(&got); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-sent; err != nil {
		t.Errorf("with room again: %v", err)
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		if err := fill(c); !Gone(err) {
			t.Errorf("interrupted: %v", err)
		}
	}()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	within(t, "end of the send", full)
}

// However many wait, they have no goroutine, and one that stands still is in nobody's way.
func TestPolledMany(t *testing.T) {
	const many = 200
	p := newPoller(t)
	before := runtime.NumGoroutine()
	type one struct {
		c   *Conn
		s   *Polled
		far *Conn
	}
	var all []one
	for range many {
		c, s, far := polled(t, p)
		all = append(all, one{c, s, far})
	}
	hold := make(chan struct{})
	held := make(chan struct{})
	var running sync.WaitGroup
	for i, o := range all {
		running.Add(1)
		err := o.s.Await(func() {
			defer running.Done()
			if i == 0 {
				close(held)
				<-hold
				return
			}
			var got note
			if _, err := o.c.Receive(&got); err != nil || got.N != i {
				t.Errorf("%d received %+v, %v", i, got, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := runtime.NumGoroutine(); n > before+many/4 { // the runtime has some of its own now and then
		t.Errorf("%d goroutines before, %d while %d wait", before, n, many)
	}
	for i, o := range all {
		if i == 1 {
			within(t, "waking of the first", held)
		}
		if err := o.far.Send(note{N: i}); err != nil {
			t.Fatal(err)
		}
	}
	running.Add(-1)
	running.Wait()
	running.Add(1)
	close(hold)
	running.Wait()
	// Descriptors are used again, by connections that know nothing of the earlier ones.
	for i := range all {
		all[i].c.Close()
		c, s, far := polled(t, p)
		woken := await(t, s)
		if err := far.Send(note{N: i}); err != nil {
			t.Fatal(err)
		}
		within(t, "waking of a new one", woken)
		var got note
		if _, err := c.Receive(&got); err != nil || got.N != i {
			t.Fatalf("received %+v, %v", got, err)
		}
	}
}

// Closing and a message at the same moment wake once.
func TestPolledRace(t *testing.T) {
	p := newPoller(t)
	for range 200 {
		c, s, far := polled(t, p)
		woken := make(chan struct{}, 2)
		if err := s.Await(func() { woken <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { _ = far.Send(note{}) }) // to nobody, perhaps
		both.Go(func() { c.Close() })
		both.Wait()
		within(t, "waking", woken)
		if len(woken) > 0 {
			t.Fatal("woken twice")
		}
	}
}

// What cannot be watched is left as it is.
func TestPolledRefused(t *testing.T) {
	p := newPoller(t)
	f := tempFile(t, "")
	if _, err := p.Add(f); !errors.Is(err, unix.EPERM) {
		t.Errorf("a file on disk: %v", err)
	}
	if _, err := f.Stat(); err != nil {
		t.Errorf("the file: %v", err)
	}
}

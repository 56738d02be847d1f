package join

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/internal/sys"
)

// TestTurns: so many join at once; the next one waits for one of them, and no longer than a moment.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, start := newTurns(), time.Now()
		first := turns.wait()
		for range joiningAtOnce - 1 {
			turns.wait()
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the first waited for %s", d)
		}
		time.AfterFunc(turnPatience/2, first)
		turns.wait()
		if d := time.Since(start); d != turnPatience/2 {
			t.Errorf("who waited for another had its turn after %s", d)
		}
		unheard := turns.wait()
		if d := time.Since(start); d != turnPatience/2+turnPatience {
			t.Errorf("who waited for those that are stuck had its turn after %s", d)
		}
		unheard()
		if len(turns) != joiningAtOnce {
			t.Errorf("%d have a turn, %d are there", len(turns), joiningAtOnce)
		}
	})
}

// TestTurnOfSilent: who connects and says nothing gives its turn back long before its connection ends; who has said
// something keeps it.
func TestTurnOfSilent(t *testing.T) {
	pair := func() (ss *session, theirs *os.File) {
		ours, theirs, err := sys.Socketpair()
		if err != nil {
			t.Fatal(err)
		}
		return serverOn(t, &fakeController{}, ours), theirs
	}
	ss, theirs := pair()
	ended := make(chan error, 1)
	ss.joined = sync.OnceFunc(func() { ended <- ss.ctx.Err() })
	ss.start()
	if err := <-ended; err != nil {
		t.Error("its turn was over with its connection")
	}
	theirs.Close()
	ss.s.wg.Wait()

	ss, theirs = pair()
	timer := time.AfterFunc(time.Hour, func() {})
	ss.silent = timer
	ss.handle(request{message: message{Kind: kindPorts}})
	if timer.Stop() {
		t.Error("who has spoken is taken for silent")
	}
	theirs.Close()
	ss.receive()
}

// TestTurnsAreGivenBack: by who joins, is refused, breaks the protocol or goes; and who says nothing keeps nobody out.
func TestTurnsAreGivenBack(t *testing.T) {
	path := socketPath(t)
	d := startDaemon(t, path, &fakeController{})
	for range joiningAtOnce + 1 {
		raw(t, path)
	}
	dialTest(t, path, Options{})
	if _, err := raw(t, path).call(t.Context(), kindJoin, joinBody{Version, testConfig()}); err == nil {
		t.Error("a sandbox has joined twice")
	}
	if _, err := raw(t, path).call(t.Context(), "fly", nil); err == nil {
		t.Error("an unknown request is answered")
	}
	d.mu.Lock()
	for s := range d.sessions {
		if s.id == "" {
			s.l.conn.Close()
		}
	}
	d.mu.Unlock()
	eventually(t, "all turns", func() bool { return len(d.turns) == 0 })
}

// TestNoGoroutineWhileNothingIsSaid: what a goroutine leaves behind is there for each sandbox otherwise, however long ago it went.
func TestNoGoroutineWhileNothingIsSaid(t *testing.T) {
	path := socketPath(t)
	startDaemon(t, path, &fakeController{})
	for i := range joiningAtOnce {
		config := testConfig()
		config.ID = fmt.Sprintf("%064x", i)
		if _, err := raw(t, path).call(t.Context(), kindJoin, joinBody{Version, config}); err != nil {
			t.Fatal(err)
		}
	}
	stacks := make([]byte, 4<<20)
	eventually(t, "the end of what was said last", func() bool {
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("(*session)"))
	})
}

// TestShrinkServer: a Server that has let go of the room of those that went knows those that are there.
func TestShrinkServer(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	d := startDaemon(t, path, ctl)
	c, _ := dialTest(t, path, Options{})
	d.Shrink()
	if _, err := raw(t, path).call(t.Context(), kindJoin, joinBody{Version, testConfig()}); err == nil {
		t.Error("a sandbox has joined twice")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	dialTest(t, path, Options{})
}

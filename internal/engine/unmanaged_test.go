package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/internal/control/registry"
)

// TestUnmanagedEvents: sandboxes that need no daemon come and go as the others, for who listens.
func TestUnmanagedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, reg := rig(t)
		_, live, cancel := e.Events()
		synctest.Wait()
		reg.end("alone")
		reg.mu.Lock()
		id := strings.Repeat("d5", 32)
		reg.entries = append(reg.entries, registry.Entry{ID: id, Name: "new", Mode: "private"},
			registry.Entry{ID: strings.Repeat("d6", 32), Name: "joined", Mode: "web", Networks: []string{"web"}})
		reg.mu.Unlock()
		var got []string
		for range 5 {
			m := <-live
			got = append(got, string(m.Type)+" "+string(m.Action)+" "+m.Actor.Attributes["name"])
		}
		want := []string{"container die alone", "network disconnect none", "container destroy alone", "container create new", "container start new"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		cancel()
		<-time.After(2 * unmanagedInterval)
		synctest.Wait()
		if e.unmanaged.runs {
			t.Error("it looks on though nobody listens")
		}
		_, live, cancel = e.Events()
		defer cancel()
		reg.end("new")
		if m := <-live; m.Actor.ID != id {
			t.Errorf("after a pause: %+v", m)
		}
		e.Close()
	})
}

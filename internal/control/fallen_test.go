package control

import (
	"log/slog"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/spec"
)

// TestFallenInterface: an interface that goes before its detach, as in each disconnect, is nobody's worry; one whose
// Endpoint stays is.
func TestFallenInterface(t *testing.T) {
	var log proctest.Output
	r := newRig(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.fallenGrace = 300 * time.Millisecond
	})
	r.add("web")
	for _, id := range []string{"leaves", "stays"} {
		dev, other := newTAP(t)
		if err := r.Attach("web", spec.Endpoint{ID: id}, dev, tapInfo); err != nil {
			t.Fatal(err)
		}
		other.WriteString("e")
		if _, got := r.event("the TAP is gone"); got != id {
			t.Fatalf("%s has gone", got)
		}
		if id == "leaves" {
			if err := r.Detach("web", id); err != nil {
				t.Fatal(err)
			}
		}
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(patience); !log.Has("level=WARN"); <-look.C {
		if time.Now().After(end) {
			t.Fatal("no warning")
		}
	}
	if !log.Has("endpoint=stays") || log.Has(`level=WARN msg="a sandbox has lost its interface; connect it anew" network=web endpoint=leaves`) {
		t.Error(log.String())
	}
}

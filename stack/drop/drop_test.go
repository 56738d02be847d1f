package drop

import (
	"maps"
	"regexp"
	"testing"
)

// Every reason has a name of its own, since the names are the keys of what people and programs read.
func TestNames(t *testing.T) {
	seen := map[string]Reason{}
	for r := range reasons {
		name := r.String()
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(name) {
			t.Errorf("reason %d is named %q", r, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("reasons %d and %d are both named %q", r, other, name)
		}
		seen[name] = r
	}
	if got := reasons.String(); got != "unknown" {
		t.Errorf("what is no reason is named %q", got)
	}
}

func TestCounters(t *testing.T) {
	var c Counters
	c.Add(FrameRunt)
	c.AddN(PublishLimit, 3)
	c.AddN(TAPFull, 0)
	c.AddN(TAPFull, -1)
	if want := map[string]uint64{"frame-runt": 1, "publish-limit": 3}; !maps.Equal(c.Snapshot(), want) {
		t.Errorf("counts are %v, want %v", c.Snapshot(), want)
	}
	if n := c.Get(PublishLimit); n != 3 {
		t.Errorf("count is %d, want 3", n)
	}
}

func TestNilCountersCountNowhere(t *testing.T) {
	var c *Counters
	c.Add(FrameRunt)
	if c.Get(FrameRunt) != 0 || len(c.Snapshot()) != 0 {
		t.Error("a nil Counters counted")
	}
}

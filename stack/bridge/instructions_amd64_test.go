//go:build !race

package bridge_test

import (
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
)

// TestForwardInstructions bounds what the switch executes for a frame, at half as much again as was counted.
func TestForwardInstructions(t *testing.T) {
	began := time.Now()
	for _, row := range []struct {
		name   string
		strict bool
		most   int // instructions
	}{
		{"strict", true, 1260}, // counted: 842
		{"guest", false, 1920}, // 1281
	} {
		t.Run(row.name, func(t *testing.T) {
			port, batch := pair(t, row.strict, func() time.Time { return began })
			batch = batch[:2]
			if n := proctest.Instructions(t, func() { port.Input(batch) }) / len(batch); n > row.most {
				t.Errorf("%d instructions a frame, %d at most were to be", n, row.most)
			}
		})
	}
}

//go:build !race

package nat

import (
	"fmt"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
)

// TestUDPInstructions bounds what is executed for a datagram to the outside, system calls aside, at half as much again
// as was counted.
func TestUDPInstructions(t *testing.T) {
	for _, row := range []struct {
		name  string
		batch int
		most  int // instructions a datagram
	}{
		{"one at a time", 1, 3420}, // counted: 2283
		{"batches of 4", 4, 1970},  // 1313
	} {
		t.Run(row.name, func(t *testing.T) {
			n := testNetwork()
			u := NewUDP(Env{Emit: &counter{wake: make(chan struct{}, 1)}}, mustPolicy(t, n, nil), n)
			defer u.Close()
			sink := listen(t, "127.0.0.1:0") // what nobody reads, the kernel drops
			p := datagram{from: a1, to: fmt.Sprintf("10.0.2.2:%d", sink.port()), payload: pattern(100)}.packet(t)
			batch := time.Now()
			got := proctest.Instructions(t, func() {
				u.s.mu.Lock()
				u.s.clock = batch // as if it had been read
				u.s.mu.Unlock()
				for range row.batch {
					u.Input(p)
				}
				u.Flush()
			}) / row.batch
			if got > row.most {
				t.Errorf("%d instructions a datagram, %d at most were to be", got, row.most)
			}
		})
	}
}

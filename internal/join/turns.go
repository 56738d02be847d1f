package join

import "time"

// Turns.
//
// When a daemon has died, all shims come to the next one at the same moment. Handled at once, each of 2 000 would have
// two goroutines, a message that is being read and an open file, and the runtime never gives back all of what it makes for
// those. So a connection waits to be accepted until one of those that were before it has joined. Who connects and says nothing
// loses its turn after a moment. Nobody waits longer than that for a turn either, so whoever speaks and does not join can make others late,
// and cannot keep them out.

const (
	// joiningAtOnce is how many join at the same time. What they wait for is the one goroutine that talks to the datapath.
	joiningAtOnce = 32
	// turnPatience is how long a connection waits for its turn, and how long it keeps one in silence; to join takes a millisecond.
	turnPatience = 50 * time.Millisecond
)

// turns are the connections that have not joined yet.
type turns chan struct{}

func newTurns() turns { return make(turns, joiningAtOnce) }

// wait returns when another may join, with whom to tell when it has.
func (t turns) wait() (done func()) {
	done = func() { <-t }
	select {
	case t <- struct{}{}:
		return done
	default:
	}
	late := time.NewTimer(turnPatience)
	defer late.Stop()
	select {
	case t <- struct{}{}:
		return done
	case <-late.C:
		return func() {}
	}
}

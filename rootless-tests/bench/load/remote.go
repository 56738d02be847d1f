package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// grace is how much longer than its window an operation may take before the agent counts as stuck: the
// timeouts of its sockets, twice, because an operation may meet one while connecting and one while closing.
const grace = 4 * ioTimeout

// Remote is the controller's end of an agent. One operation at a time.
type Remote struct {
	requests *json.Encoder
	replies  chan Reply // closed by the reading goroutine at the agent's end
	last     int
}

// NewRemote talks to an agent whose standard input is in and whose standard output is out. Its goroutine
// ends when out does.
func NewRemote(in io.Writer, out io.Reader) *Remote {
	m := &Remote{requests: json.NewEncoder(in), replies: make(chan Reply, 1)}
	go func() {
		defer close(m.replies)
		for d := json.NewDecoder(out); ; {
			var r Reply
			if d.Decode(&r) != nil {
				return
			}
			m.replies <- r
		}
	}()
	return m
}

var errGone = errors.New("the agent is gone; see its messages above")

// Do has the agent do q and waits. After an error of an operation the agent is still usable.
func (m *Remote) Do(q Request) (Reply, error) {
	m.last++
	q.ID = m.last
	if err := m.requests.Encode(q); err != nil {
		return Reply{}, fmt.Errorf("%s: %w", q.Op, errGone)
	}
	patience := q.Warm + q.Window + grace + time.Duration(q.Count)*time.Duration(idlePatience)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case r, ok := <-m.replies:
			switch {
			case !ok:
				return Reply{}, fmt.Errorf("%s: %w", q.Op, errGone)
			case r.ID != q.ID: // the answer to one that was given up
			case r.Error != "":
				return r, fmt.Errorf("%s: %s", q.Op, r.Error)
			default:
				return r, nil
			}
		case <-timeout.C:
			return Reply{}, fmt.Errorf("%s: no answer in %v", q.Op, patience)
		}
	}
}

// idlePatience is what opening one of many connections may take: slirp4netns walks all of them for each.
const idlePatience = 10 * time.Millisecond

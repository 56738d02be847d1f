package gateway

import "testing"

// TestStreamsTakeTurns: what a socket says is acted on at once, but a stream's not before those that wait for their turn.
func TestStreamsTakeTurns(t *testing.T) {
	const fd, other = 5, 6
	for _, row := range []struct {
		waiting, stream, queued bool
	}{
		{waiting: false, stream: false, queued: false},
		{waiting: false, stream: true, queued: false},
		{waiting: true, stream: false, queued: false},
		{waiting: true, stream: true, queued: true},
	} {
		c := &carrier{flows: make(map[int32]*flow), processors: func() int { return 1 }, serving: 1}
		f, first := &flow{c: c, fd: fd, over: true}, &flow{c: c, fd: other, over: true}
		f.stream.Store(row.stream)
		c.flows[fd], c.flows[other] = f, first
		if row.waiting {
			c.ready(first, newsContainerRoom)
		}
		c.hear(fd, newsHostData, false)
		if f.queued != row.queued || row.queued && (c.turns.queue.of[f.owner].head != first || first.next != f || f.pending != newsHostData) {
			t.Errorf("%+v: in the list: %v, with news %#x", row, f.queued, f.pending)
		}
		if f.news.Load() != 0 {
			t.Errorf("%+v: news %#x are kept where nobody takes them", row, f.news.Load())
		}
	}
}

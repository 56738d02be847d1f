package gateway

import (
	"slices"

	"github.com/usernet/usernet/stack/l2"
)

// # Theory of operation
//
// Flows with news take turns by credit, a deficit round robin (Shreedhar and Varghese, SIGCOMM 1995; fq_codel, RFC 8290, has
// the same two lists). A flow begins its turn with roundBytes of credit, and what is moved for it, and workBytes each time
// it is worked on, is taken from that.
//
//	         credit left                      none left
//	news ──► owed, first come first served    queue, containers in turns: with the turn comes credit
//
// In the queue containers take turns, and the flows of each among themselves. So a container with a thousand downloads gets no more
// than its neighbour with one. What is owed needs no such order, since all of it was a turn's credit.
//
// A stream keeps its turn for as long as it has news and credit. While each had one burst at a time its sender had
// filled its socket and slept before it came round again: what a read made room for the kernel then sent on our thread,
// as part of the read or from a timer of the sender's on our CPU, and that thread is what 16 downloads keep busy. After
// the first burst of several the sender runs again, on another CPU, and sends by itself; and the container's reader
// finds more each time it is woken. With 16 downloads the server's share of the CPU time went from 0.15 to 0.22 s/GB,
// ours from 0.62 to 0.48, and a reader was woken 4.5 times per MiB instead of 8.2: 1.29 of the throughput (1.07 to 1.60,
// 8 pairs in turns, 2 CPUs).
//
// A stream whose news stop, because its sender or its reader is behind, loses its turn but not the credit: it is owed the
// rest, and has it before another turn begins. So each moves as much in a round whether it moves it at once or not.
//
// Who moves little has credit nearly always, and is not only before those in the queue but also before the stream whose
// turn it is: it waits for no more than what is being moved, unless a stream is owed something and was there first.
// workBytes sees to it that many of those do not keep streams from their turn for long. Beside 16 downloads a round trip
// went from 11.1 to 2.1 ms (p99 14.3 to 6.1), and a connection with one from 12.2 to 4.0 (15.6 to 8.5).
//
// With several P each that serves takes what is next; the one turn that is kept is that of the stream that began last.
type turns struct {
	owed  flowList
	queue flowQueue
	turn  *flow // whose turn it is; in neither list; nil: nobody's
	again bool  // turn has news
}

const (
	// roundBytes is what a stream moves in a turn. 16 downloads with one, two and three bursts: 1, 1.18 and 1.29. Longer
	// turns make those that wait wait longer, and streams less equal in any one second.
	roundBytes = 3 * burstBytes
	// workBytes is as much copying as a look at a flow takes that has nearly nothing.
	workBytes = 8 << 10
	// upCharge is how many bytes of credit one costs that goes to the host. An upload gains nothing by a long turn, and without this
	// 16 had 0.97 of the throughput, and connections made beside them p99 of 29 ms instead of 24.
	upCharge = 3
	// firstCredit is what a new flow has: enough for a request and its answer.
	firstCredit = 64 << 10
)

// flowList links flows by next.
type flowList struct{ head, tail *flow }

func (l *flowList) push(f *flow) {
	if l.tail == nil {
		l.head = f
	} else {
		l.tail.next = f
	}
	l.tail = f
}

// pop returns the first flow; there is one.
func (l *flowList) pop() (f *flow) {
	f = l.head
	if l.head, f.next = f.next, nil; l.head == nil {
		l.tail = nil
	}
	return f
}

// flowQueue is flows by their containers. Its memory is that of as many containers as were ever in it at a time.
type flowQueue struct {
	order []l2.MAC // of the containers that have flows here
	of    map[l2.MAC]flowList
}

func (q *flowQueue) empty() bool { return len(q.order) == 0 }

// push puts f behind the others of its container.
func (q *flowQueue) push(f *flow) {
	l, waits := q.of[f.owner]
	if !waits {
		q.order = append(q.order, f.owner)
	}
	if q.of == nil {
		q.of = make(map[l2.MAC]flowList)
	}
	l.push(f)
	q.of[f.owner] = l
}

// pop returns the first flow of the container that is first, which then is the last; there is one.
func (q *flowQueue) pop() (f *flow) {
	owner := q.order[0]
	l := q.of[owner]
	f = l.pop()
	q.order = slices.Delete(q.order, 0, 1)
	if l.head == nil {
		delete(q.of, owner)
		return f
	}
	q.of[owner] = l
	q.order = append(q.order, owner)
	return f
}

// empty reports whether no flow has news.
func (t *turns) empty() bool { return t.owed.head == nil && t.queue.empty() && !t.again }

// add puts a flow in that has news and is not in.
func (t *turns) add(f *flow) {
	switch {
	case f == t.turn:
		t.again = true
	case f.credit > 0:
		t.owed.push(f)
	default:
		t.queue.push(f)
	}
}

// next takes out the flow to work on. There is one.
func (t *turns) next() (f *flow) {
	if o := t.owed.head; o != nil {
		switch {
		case !o.stream.Load():
			return t.owed.pop() // it takes no time worth a turn
		case !t.again:
			t.turn = t.owed.pop()
			return t.turn
		}
	}
	if t.again {
		t.again = false
		return t.turn
	}
	t.turn = t.queue.pop()
	t.turn.credit += roundBytes
	return t.turn
}

// spend takes the work on f, which moved n bytes, from its credit.
func (t *turns) spend(f *flow, n int) {
	if f.credit -= n + workBytes; f.credit > 0 || f != t.turn {
		return
	}
	t.turn = nil
	if t.again {
		t.again = false
		t.queue.push(f)
	}
}

// forget is told that there will be no news of f. If f is in a list, it ends there with the first look at it: as the
// turn it would be kept, memory and all, until another one begins.
func (t *turns) forget(f *flow) {
	f.credit = -roundBytes
	if f == t.turn {
		t.turn, t.again = nil, false
	}
}

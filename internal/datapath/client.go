package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/stack/spec"
)

// ErrGone says that the datapath process ended before it answered.
var ErrGone = errors.New("the datapath process is gone")

// RefusedError is the datapath's own answer to a request it understood, or the answer to one that is too
// long to be asked: the process lives on and nothing changed.
type RefusedError struct {
	// Request is the kind of request that was refused.
	Request string
	// Cause is why.
	Cause string
}

func (e *RefusedError) Error() string { return e.Cause }

// window is how many requests may be on their way at once. While the process works on one, the
// next are there already, and neither side waits for the other to wake up: 3 000 requests take half
// the time they take one by one. More would gain nothing and would put descriptors
// on the way, of which a user may have only so many.
const window = 32

// Hello waits until the process has confined itself and says in which way.
func (p *Process) Hello(ctx context.Context) (Hello, error) {
	var h Hello
	err := p.call(ctx, kindHello, helloRequest{Version: ProtocolVersion}, nil, &h)
	return h, err
}

// Stats asks for the counters of a Network.
func (p *Process) Stats(ctx context.Context, network string) (spec.Stats, error) {
	var s spec.Stats
	err := p.call(ctx, kindStats, networkRequest{network}, nil, &s)
	return s, err
}

// Do asks for one thing and waits for the answer, for RequestTimeout at most. After a timeout the
// process may or may not have done what was asked, so its owner should Kill it.
func (p *Process) Do(ctx context.Context, r Request) error {
	return p.call(ctx, r.kind, r.body, r.file, nil)
}

// DoAll asks for many things in order, without waiting for each answer before the next is asked.
// What is refused goes to refused and does not stop the rest; any other error does.
func (p *Process) DoAll(ctx context.Context, rs iter.Seq[Request], refused func(Request, *RefusedError)) error {
	type asked struct {
		Request
		*pending
	}
	var queue []asked
	settled := func(r Request, err error) error {
		if no, ok := errors.AsType[*RefusedError](err); ok {
			refused(r, no)
			return nil
		}
		return err
	}
	oldest := func() error {
		a := queue[0]
		queue = queue[1:]
		return settled(a.Request, a.wait(ctx, nil))
	}
	defer func() {
		for _, a := range queue {
			a.forget()
		}
	}()
	for r := range rs {
		if len(queue) == window {
			if err := oldest(); err != nil {
				return err
			}
		}
		q, err := p.ask(r.kind, r.body, r.file)
		if err == nil {
			queue = append(queue, asked{r, q})
		} else if err = settled(r, err); err != nil {
			return err
		}
	}
	for len(queue) > 0 {
		if err := oldest(); err != nil {
			return err
		}
	}
	return nil
}

// pending is a request that was sent.
type pending struct {
	p     *Process
	id    uint64
	kind  kind
	reply <-chan message
}

// ask sends a request. Whoever asks waits or forgets.
func (p *Process) ask(k kind, body any, f *os.File) (*pending, error) {
	m := message{Kind: k}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("ask datapath to %s: encode: %w", k, err)
		}
		m.Body = b
	}
	q := p.expect(k)
	m.ID = q.id
	var files []*os.File
	if f != nil {
		files = []*os.File{f}
	}
	// A process that is wedged takes no more than fits into the socket.
	_ = p.c.SetSendDeadline(time.Now().Add(RequestTimeout)) // fails when it is closed, as Send will
	if err := p.c.Send(m, files...); err != nil {
		q.forget()
		switch {
		case errors.Is(err, wire.ErrTooLong):
			return nil, &RefusedError{Request: string(k), Cause: err.Error()}
		case wire.Gone(err):
			err = ErrGone
		}
		return nil, fmt.Errorf("ask datapath to %s: %w", k, err)
	}
	return q, nil
}

// expect registers a request before it is sent.
func (p *Process) expect(k kind) *pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastID++
	reply := make(chan message, 1) // one reply, so the reader never waits
	p.waiting[p.lastID] = reply
	return &pending{p: p, id: p.lastID, kind: k, reply: reply}
}

// forget ends a request that nobody waits for any more.
func (q *pending) forget() {
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	delete(q.p.waiting, q.id)
}

// wait returns when there is an answer, and decodes its body into what into points to.
func (q *pending) wait(ctx context.Context, into any) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	defer q.forget()
	select {
	case m := <-q.reply:
		return q.read(m, into)
	case <-ctx.Done():
		return fmt.Errorf("ask datapath to %s: %w", q.kind, ctx.Err())
	case <-q.p.readDone:
	}
	// The reply may have come just before the end.
	select {
	case m := <-q.reply:
		return q.read(m, into)
	default:
		return fmt.Errorf("ask datapath to %s: %w", q.kind, ErrGone)
	}
}

func (q *pending) read(m message, into any) error {
	if m.Error != "" {
		return &RefusedError{Request: string(q.kind), Cause: m.Error}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(m.Body, into); err != nil {
		return fmt.Errorf("decode answer to %s: %w", q.kind, err)
	}
	return nil
}

func (p *Process) call(ctx context.Context, k kind, body any, f *os.File, into any) error {
	q, err := p.ask(k, body, f)
	if err != nil {
		return err
	}
	return q.wait(ctx, into)
}

// readReplies hands replies and events to whoever waits for them until the socket ends.
func (p *Process) readReplies() {
	defer close(p.readDone)
	for {
		var m message
		files, err := p.c.Receive(&m)
		for _, f := range files {
			f.Close() // nothing upward carries one
		}
		if err != nil {
			return
		}
		switch m.Kind {
		case kindReply:
			p.mu.Lock()
			ch := p.waiting[m.ID]
			delete(p.waiting, m.ID)
			p.mu.Unlock()
			if ch != nil {
				ch <- m
			}
		case kindEvent:
			var e Event
			if json.Unmarshal(m.Body, &e) == nil && p.event != nil {
				p.event(e)
			}
		}
	}
}

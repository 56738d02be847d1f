package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/usernet/usernet/internal/wire"
)

// ErrGone is the cause when the connection ended before an answer came.
var ErrGone = errors.New("the connection ended")

// errBusy ends a connection whose other side asks more than it waits for.
var errBusy = errors.New("too many requests wait")

// request is a message to handle, with its files.
type request struct {
	message
	files []*os.File
}

func (r *request) close() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

// open reads the body of a Large request out of its first file. What it refuses is closed.
func (r *request) open() (err error) {
	if !r.Large {
		return nil
	}
	r.Body, err = unpack(r.files[0])
	r.files[0].Close()
	r.files = r.files[1:]
	if err != nil {
		r.close()
		return fmt.Errorf("receive %s: read body: %w", r.Kind, err)
	}
	return nil
}

// file takes the only file out of the request.
func (r *request) file() (*os.File, error) {
	if len(r.files) != 1 {
		return nil, fmt.Errorf("%s: %d descriptors came, not one; raise the limit of open files", r.Kind, len(r.files))
	}
	f := r.files[0]
	r.files = nil
	return f, nil
}

// link is one side of a connection: requests out with their answers, and requests in.
type link struct {
	conn   *wire.Conn
	handle func(request)  // what the other side asks, one after the other
	work   sync.WaitGroup // handleAll

	// sendMu keeps the deadline of one send from being another's.
	sendMu   sync.Mutex
	patience time.Duration // sendTimeout

	// mu guards what follows; nothing is called while it is held.
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan request
	queue   []request // not handled yet, in order
	working bool      // handleAll runs
	err     error     // why it ended

	done chan struct{} // closed when nothing more comes
}

// newLink takes s over. Somebody must call read, and set handle before where the other side may ask.
func newLink(s wire.Socket) (*link, error) {
	conn, err := wire.New(s, 0)
	if err != nil {
		return nil, err
	}
	return &link{
		conn: conn, waiting: make(map[uint64]chan request), done: make(chan struct{}),
		patience: sendTimeout,
	}, nil
}

// read gives answers to who waits and requests to handle until the connection ends. What is being handled then
// goes on until work says.
func (l *link) read() {
	var err error
	for err == nil {
		err = l.next()
	}
	l.end(err)
}

// drain is the part of read that does not wait, for a connection whose receives do not. Its error ends the connection.
func (l *link) drain() error {
	for {
		switch err := l.next(); {
		case errors.Is(err, wire.ErrNothing):
			return nil
		case err != nil:
			return err
		}
	}
}

// end tells everybody that nothing more comes.
func (l *link) end(err error) {
	l.conn.Close()
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	close(l.done)
}

// enqueue has a request handled. The goroutine that does is there while there is something to do: thousands of sandboxes
// that ask nothing need no stack for it.
func (l *link) enqueue(r request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxQueue {
		r.close()
		return errBusy
	}
	l.queue = append(l.queue, r)
	if !l.working {
		l.working = true
		l.work.Go(l.handleAll)
	}
	return nil
}

func (l *link) handleAll() {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.queue, l.working = nil, false
			l.mu.Unlock()
			return
		}
		r := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		// Not when it came: a queue full of the largest bodies would be half a gigabyte for each connection.
		if err := r.open(); err != nil {
			l.fail(err)
			continue
		}
		l.handle(r)
	}
}

// next receives one message. Its error ends the connection.
func (l *link) next() error {
	var m message
	files, err := l.conn.Receive(&m)
	if err != nil && !errors.Is(err, wire.ErrFilesLost) {
		return err
	}
	r := request{m, files}
	if m.Large {
		if len(r.files) == 0 {
			return fmt.Errorf("receive %s: its body did not come; raise the limit of open files", m.Kind)
		}
	}
	if m.Kind == kindReply {
		if err := r.open(); err != nil {
			return err
		}
		l.answer(r)
		return nil
	}
	return l.enqueue(r)
}

// answer wakes who asked; an answer that nobody waits for any more is dropped with its files.
func (l *link) answer(r request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.waiting[r.ID]
	delete(l.waiting, r.ID)
	if ch == nil {
		r.close()
		return
	}
	ch <- r // has room, and under the lock: whoever gives up finds it
}

// call asks and waits for the answer, whose files are the caller's. A refusal is a *RefusedError; the end of
// the connection wraps ErrGone.
func (l *link) call(ctx context.Context, k kind, v any, files ...*os.File) (request, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return l.callFor(ctx, k, v, files...)
}

// callFor is call with no other end than ctx.
func (l *link) callFor(ctx context.Context, k kind, v any, files ...*os.File) (request, error) {
	ch := make(chan request, 1)
	l.mu.Lock()
	l.last++
	id := l.last
	l.waiting[id] = ch
	l.mu.Unlock()
	err := l.send(message{ID: id, Kind: k}, v, files)
	if err == nil {
		select {
		case r := <-ch:
			return r.outcome(k)
		case <-l.done:
			err = ErrGone
		case <-ctx.Done():
			err = fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
	l.mu.Lock()
	delete(l.waiting, id)
	l.mu.Unlock()
	// It may have come at the same moment.
	select {
	case r := <-ch:
		return r.outcome(k)
	default:
		return request{}, fmt.Errorf("%s: %w", k, err)
	}
}

// outcome splits an answer into what it brought and its error.
func (r request) outcome(k kind) (request, error) {
	if r.Error != nil {
		r.close()
		return request{}, r.Error.error()
	}
	r.Kind = k
	return r, nil
}

// notify asks for something that is not answered.
func (l *link) notify(k kind, v any) error { return l.send(message{Kind: k}, v, nil) }

// reply answers a request, unless it wants none.
func (l *link) reply(to message, v any, err error, files ...*os.File) error {
	if to.ID == 0 {
		return nil
	}
	if err != nil {
		v, files = nil, nil
	}
	return l.send(message{ID: to.ID, Kind: kindReply, Error: failureOf(err)}, v, files)
}

// send sends m with v as its body; the files stay the caller's. When the other side leaves no room the
// connection is ended.
func (l *link) send(m message, v any, files []*os.File) error {
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", m.Kind, err)
		}
		if len(b) <= maxInline {
			m.Body = b
		} else {
			f, err := pack(b)
			if err != nil {
				return fmt.Errorf("encode %s: %w", m.Kind, err)
			}
			defer f.Close()
			m.Large = true
			files = append([]*os.File{f}, files...)
		}
	}
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	err := l.conn.SetSendDeadline(time.Now().Add(l.patience))
	if err == nil {
		err = l.conn.Send(m, files...)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.fail(errors.New("the other side takes no messages"))
		return ErrGone
	case err != nil && wire.Gone(err):
		return ErrGone
	}
	return err
}

// fail ends the connection for a reason of this side.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.conn.Close()
}

// cause says why the connection ended.
func (l *link) cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

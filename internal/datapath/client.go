package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// ErrGone says that the datapath process ended before it answered.
var ErrGone = errors.New("the datapath process is gone")

// RefusedError is the datapath's own answer to a request it understood: the process lives on and
// nothing changed.
type RefusedError struct {
	// Request is the kind of request that was refused.
	Request string
	// Cause is the datapath's text.
	Cause string
}

func (e *RefusedError) Error() string { return e.Cause }

// Hello waits until the process has confined itself and says in which way.
func (p *Process) Hello(ctx context.Context) (Hello, error) {
	var h Hello
	err := p.call(ctx, kindHello, helloRequest{Version: ProtocolVersion}, nil, &h)
	return h, err
}

// Configure makes the Network. It is the second request and comes once.
func (p *Process) Configure(ctx context.Context, n spec.Network) error {
	return p.call(ctx, kindConfigure, n, nil, nil)
}

// Attach gives the datapath a duplicate of the TAP; tapFile stays the caller's.
func (p *Process) Attach(ctx context.Context, ep spec.Endpoint, tapFile *os.File, info tap.Info) error {
	return p.call(ctx, kindAttach, attachRequest{Endpoint: ep, TAP: info}, tapFile, nil)
}

// Detach takes an Endpoint away.
func (p *Process) Detach(ctx context.Context, id string) error {
	return p.call(ctx, kindDetach, idRequest{ID: id}, nil, nil)
}

// Publish gives the datapath a duplicate of the bound socket f, which stays the caller's.
func (p *Process) Publish(ctx context.Context, id string, s portfwd.Spec, f *os.File, endpoint string) error {
	return p.call(ctx, kindPublish, publishRequest{ID: id, Spec: s, Endpoint: endpoint}, f, nil)
}

// Unpublish ends a published port and its flows.
func (p *Process) Unpublish(ctx context.Context, id string) error {
	return p.call(ctx, kindUnpublish, idRequest{ID: id}, nil, nil)
}

// SetDNS replaces the resolver configuration.
func (p *Process) SetDNS(ctx context.Context, c dnsproxy.Config) error {
	return p.call(ctx, kindDNS, c, nil, nil)
}

// Capture has everything that passes the switch written to f, which stays the caller's; more says
// that an earlier datapath has begun the file.
func (p *Process) Capture(ctx context.Context, f *os.File, more bool) error {
	return p.call(ctx, kindCapture, captureRequest{More: more}, f, nil)
}

// HostChanged tells that addresses or routes of the host are not what they were.
func (p *Process) HostChanged(ctx context.Context) error {
	return p.call(ctx, kindHostChanged, nil, nil, nil)
}

// Stats asks for the counters.
func (p *Process) Stats(ctx context.Context) (spec.Stats, error) {
	var s spec.Stats
	err := p.call(ctx, kindStats, nil, nil, &s)
	return s, err
}

// call sends one request and waits for its reply, for RequestTimeout at most. After a timeout the
// process may or may not have done what was asked, so its owner should Kill it.
func (p *Process) call(ctx context.Context, k kind, body any, f *os.File, into any) error {
	ctx, cancel := context.WithTimeout(ctx, RequestTimeout)
	defer cancel()
	id, reply := p.expect()
	defer p.forget(id)
	if err := p.c.send(message{ID: id, Kind: k}, body, f); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed) {
			err = ErrGone
		}
		return fmt.Errorf("ask datapath to %s: %w", k, err)
	}
	select {
	case m := <-reply:
		return p.read(k, m, into)
	case <-ctx.Done():
		return fmt.Errorf("ask datapath to %s: %w", k, ctx.Err())
	case <-p.readDone:
	}
	// The reply may have come just before the end.
	select {
	case m := <-reply:
		return p.read(k, m, into)
	default:
		return fmt.Errorf("ask datapath to %s: %w", k, ErrGone)
	}
}

func (p *Process) read(k kind, m message, into any) error {
	if m.Error != "" {
		return &RefusedError{Request: string(k), Cause: m.Error}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(m.Body, into); err != nil {
		return fmt.Errorf("decode answer to %s: %w", k, err)
	}
	return nil
}

// expect registers a request and returns its id and where its reply will be.
func (p *Process) expect() (uint64, <-chan message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastID++
	ch := make(chan message, 1) // one reply, so the reader never waits
	p.waiting[p.lastID] = ch
	return p.lastID, ch
}

func (p *Process) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

// readReplies hands replies and events to whoever waits for them until the socket ends.
func (p *Process) readReplies() {
	defer close(p.readDone)
	for {
		m, f, err := p.c.receive()
		if f != nil {
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

package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/stack/spec"
)

// eventQueue bounds the events that wait for control. An event says that something ended, and there
// are never more things than this that could end at once in one sandbox.
const eventQueue = 64

// errShutdown ends serve after a shutdown request.
var errShutdown = errors.New("shutdown requested")

// server is the inside of the process: it turns messages into calls of the Backend.
type server struct {
	c       *conn
	new     New
	log     *slog.Logger
	report  confine.Report
	backend Backend // nil until configure

	events chan Event
	stop   chan struct{}  // closed by close
	wg     sync.WaitGroup // sendEvents
}

func newServer(c *conn, newBackend New, report confine.Report, log *slog.Logger) *server {
	s := &server{c: c, new: newBackend, log: log, report: report,
		events: make(chan Event, eventQueue), stop: make(chan struct{})}
	s.wg.Go(s.sendEvents)
	return s
}

// serve answers requests until the socket ends or a shutdown is asked for, both nil, or until a
// message makes no sense.
func (s *server) serve() error {
	for {
		m, f, err := s.c.receive()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return nil
		case err != nil:
			return fmt.Errorf("read request: %w", err)
		}
		body, err := s.handle(m, f)
		end := errors.Is(err, errShutdown)
		if end {
			err = nil
		}
		reply := message{ID: m.ID, Kind: kindReply}
		if err != nil {
			reply.Error = err.Error()
		}
		if err := s.c.send(reply, body, nil); err != nil {
			return fmt.Errorf("answer %s: %w", m.Kind, err)
		}
		if end {
			return nil
		}
	}
}

// handle runs one request. It owns f: what no Backend method took over is closed.
func (s *server) handle(m message, f *os.File) (any, error) {
	want, known := carriesFile[m.Kind]
	if f != nil && !want {
		f.Close()
	}
	switch {
	case !known:
		return nil, fmt.Errorf("serve request: unknown kind %q", m.Kind)
	case want && f == nil:
		return nil, fmt.Errorf("serve %s: the descriptor is missing; close connections or raise the limit of open files", m.Kind)
	case !want && f != nil:
		return nil, fmt.Errorf("serve %s: a descriptor came with it", m.Kind)
	}
	switch m.Kind {
	case kindHello:
		return s.hello(m.Body)
	case kindConfigure:
		return nil, s.configure(m.Body)
	case kindShutdown:
		return nil, errShutdown
	}
	if s.backend == nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("serve %s: the network is not configured", m.Kind)
	}
	if want {
		return nil, s.handleFile(m, f)
	}
	return s.handlePlain(m)
}

// carriesFile lists the requests and says which come with a descriptor.
var carriesFile = map[kind]bool{
	kindHello: false, kindConfigure: false, kindShutdown: false,
	kindAttach: true, kindPublish: true, kindCapture: true,
	kindDetach: false, kindUnpublish: false, kindDNS: false, kindHostChanged: false, kindStats: false,
}

func (s *server) hello(body json.RawMessage) (any, error) {
	q, err := parse[helloRequest](body)
	if err != nil {
		return nil, err
	}
	if q.Version != ProtocolVersion {
		return nil, fmt.Errorf("serve hello: control speaks version %d, this datapath %d; start the sandbox again", q.Version, ProtocolVersion)
	}
	return Hello{Version: ProtocolVersion, Confine: s.report}, nil
}

func (s *server) configure(body json.RawMessage) error {
	if s.backend != nil {
		return errors.New("serve configure: already configured")
	}
	n, err := parse[spec.Network](body)
	if err != nil {
		return err
	}
	b, err := s.new(n, Options{Log: s.log, Event: s.event})
	if err != nil {
		return err
	}
	s.backend = b
	return nil
}

// handleFile runs the requests that come with a descriptor; f is never nil.
func (s *server) handleFile(m message, f *os.File) error {
	switch m.Kind {
	case kindAttach:
		q, err := parse[attachRequest](m.Body)
		if err != nil {
			f.Close()
			return err
		}
		return s.backend.Attach(q.Endpoint, f, q.TAP)
	case kindPublish:
		q, err := parse[publishRequest](m.Body)
		if err != nil {
			f.Close()
			return err
		}
		return s.backend.Publish(q.ID, q.Spec, f, q.Endpoint)
	default: // kindCapture
		c, ok := s.backend.(Capturer)
		if !ok {
			f.Close()
			return errors.New("serve capture: this network cannot capture")
		}
		q, err := parse[captureRequest](m.Body)
		if err != nil {
			f.Close()
			return err
		}
		return c.Capture(f, q.More)
	}
}

// handlePlain runs the requests of a configured Network without a descriptor.
func (s *server) handlePlain(m message) (any, error) {
	switch m.Kind {
	case kindDetach, kindUnpublish:
		q, err := parse[idRequest](m.Body)
		if err != nil {
			return nil, err
		}
		if m.Kind == kindDetach {
			return nil, s.backend.Detach(q.ID)
		}
		return nil, s.backend.Unpublish(q.ID)
	case kindDNS:
		q, err := parse[dnsproxy.Config](m.Body)
		if err != nil {
			return nil, err
		}
		s.backend.SetDNS(q)
		return nil, nil
	case kindHostChanged:
		s.backend.HostChanged()
		return nil, nil
	default: // kindStats
		return s.backend.Stats(), nil
	}
}

// parse reads the body of a request.
func parse[T any](body json.RawMessage) (T, error) {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("decode request: %w", err)
	}
	return v, nil
}

// event queues one for control. A datapath must not wait for control, so a full queue drops it.
func (s *server) event(e Event) {
	select {
	case s.events <- e:
	default:
		s.log.Warn("event dropped, control does not read", "event", e.Kind, "id", e.ID)
	}
}

func (s *server) sendEvents() {
	for {
		select {
		case <-s.stop:
			return
		case e := <-s.events:
			if err := s.c.send(message{Kind: kindEvent}, e, nil); err != nil {
				s.log.Debug("event not sent", "event", e.Kind, "id", e.ID, "err", err)
			}
		}
	}
}

// close ends the Network, which resets its flows, and the goroutine that sends events. The socket
// is the caller's.
func (s *server) close() {
	if s.backend != nil {
		if err := s.backend.Close(); err != nil {
			s.log.Warn("close network", "err", err)
		}
	}
	close(s.stop)
	s.wg.Wait()
}

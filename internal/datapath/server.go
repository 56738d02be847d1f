package datapath

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/wire"
)

// eventQueue bounds the events that wait for control. An event says that something ended by itself; when
// more end at once than this, control has other ways to learn of it.
const eventQueue = 1024

// errShutdown ends serve after a shutdown request.
var errShutdown = errors.New("shutdown requested")

// server is the inside of the process: it turns messages into calls of the Backends.
type server struct {
	c      *wire.Conn // the control's that is served; written while sendEvents does not run
	host   Host
	log    *slog.Logger
	build  string
	report confine.Report

	memory *memory

	networks  map[string]*network // by id
	upstreams []netip.AddrPort    // for all of them
	held      *ledger

	events chan Event
	stop   context.CancelFunc // called by close
	wg     sync.WaitGroup     // Trimmer.Run
}

// network is a live Network and what its resolver was told.
type network struct {
	backend Backend
	hosts   map[string][]netip.Addr
}

func newServer(host Host, build string, report confine.Report, log *slog.Logger) *server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{host: host, log: log, build: build, report: report, memory: newMemory(),
		networks: make(map[string]*network), held: newLedger(), events: make(chan Event, eventQueue), stop: cancel}
	s.wg.Go(func() { s.memory.trim.Run(ctx) })
	return s
}

// live serves one control after the other, until one asks for the end or next has none. A nil next, or nothing
// attached that anybody would miss, makes the end of a control the end. It owns c.
func (s *server) live(c *wire.Conn, next func() (*wire.Conn, error)) error {
	for {
		err := s.serve(c)
		if errors.Is(err, errShutdown) {
			return nil
		}
		if next == nil || !s.held.attached() {
			return err
		}
		c.Close()
		s.log.Info("control is gone; packets go on until the next one comes", "err", err)
		if c, err = next(); err != nil {
			return err
		}
		s.log.Info("adopted by the next control")
	}
}

// serve answers a control's requests until its socket ends, which is nil, it asks for a shutdown, or a
// message makes no sense.
func (s *server) serve(c *wire.Conn) error {
	s.c = c
	ctx, cancel := context.WithCancel(context.Background())
	var sender sync.WaitGroup
	sender.Go(func() { s.sendEvents(ctx) })
	defer func() {
		cancel()
		// Who does not read events any more is not waited for.
		_ = c.SetSendDeadline(time.Now()) // fails when it is closed, and so does the send
		sender.Wait()
	}()
	for {
		m, f, err := s.receive()
		switch {
		case wire.Gone(err):
			return nil
		case err != nil:
			return fmt.Errorf("read request: %w", err)
		}
		body, err := s.handle(m, f)
		end := errors.Is(err, errShutdown)
		if end {
			err = nil
		}
		if err := s.answer(m.ID, body, err); err != nil {
			return fmt.Errorf("answer %s: %w", m.Kind, err)
		}
		if end {
			return errShutdown
		}
	}
}

// receive returns the next message and the descriptor that came with it. One whose descriptor was
// lost, since flows have used up all there may be, comes without: that is no reason to end flows.
func (s *server) receive() (message, *os.File, error) {
	var m message
	files, err := s.c.Receive(&m)
	if errors.Is(err, wire.ErrFilesLost) {
		err = nil
	}
	switch {
	case err != nil:
	case m.Kind == "":
		err = errors.New("message without a kind")
	case len(files) > 1:
		err = fmt.Errorf("%s with %d descriptors, at most one", m.Kind, len(files))
	case len(files) == 1:
		return m, files[0], nil
	default:
		return m, nil, nil
	}
	for _, f := range files {
		f.Close()
	}
	return message{}, nil, err
}

// answer sends the reply to request id.
func (s *server) answer(id uint64, body any, refusal error) error {
	reply := message{ID: id, Kind: kindReply}
	switch {
	case refusal != nil:
		reply.Error = refusal.Error()
	case body != nil:
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reply.Body = b
	}
	return s.c.Send(reply)
}

// handle runs one request. It owns f: what no Backend method took over is closed.
func (s *server) handle(m message, f *os.File) (any, error) {
	h, known := handlers[m.Kind]
	var err error
	switch {
	case !known:
		err = fmt.Errorf("serve request: unknown kind %q", m.Kind)
	case h.file != nil && f == nil:
		return nil, fmt.Errorf("serve %s: the descriptor is missing; close connections or raise the limit of open files", m.Kind)
	case h.file != nil:
		return nil, h.file(s, m.Body, f)
	case f != nil:
		err = fmt.Errorf("serve %s: a descriptor came with it", m.Kind)
	default:
		return h.plain(s, m.Body)
	}
	if f != nil {
		f.Close()
	}
	return nil, err
}

// event queues one for control. A datapath must not wait for control, so a full queue drops it.
func (s *server) event(e Event) {
	select {
	case s.events <- e:
	default:
		s.log.Warn("event dropped, control does not read", "event", e.Kind, "network", e.Network, "id", e.ID)
	}
}

func (s *server) sendEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.events:
			err := s.sendEvent(e)
			if err != nil {
				s.log.Debug("event not sent", "event", e.Kind, "network", e.Network, "id", e.ID, "err", err)
			}
		}
	}
}

func (s *server) sendEvent(e Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.c.Send(message{Kind: kindEvent, Body: b})
}

// setDNS tells one Network's resolver what it answers from.
func (s *server) setDNS(n *network) {
	n.backend.SetDNS(dnsproxy.Config{Upstreams: s.upstreams, Hosts: n.hosts})
}

// close ends the Networks, which resets their flows, and the goroutines.
func (s *server) close() {
	for id, n := range s.networks {
		if err := n.backend.Close(); err != nil {
			s.log.Warn("close network", "network", id, "err", err)
		}
	}
	clear(s.networks)
	s.stop()
	s.wg.Wait()
}

package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/tap"
)

// clientSession is one connection to a daemon, seen by the shim. One goroutine reads; its link has another do what
// the daemon asks.
type clientSession struct {
	c  *Client
	l  *link
	wg sync.WaitGroup
}

func (c *Client) open(socket wire.Socket) (*clientSession, error) {
	l, err := newLink(socket)
	if err != nil {
		socket.Close()
		return nil, err
	}
	s := &clientSession{c: c, l: l}
	l.handle = s.obey
	s.wg.Go(func() {
		l.read()
		l.work.Wait()
	})
	return s, nil
}

// close ends the connection and waits for its goroutines.
func (s *clientSession) close() {
	s.l.conn.Close()
	s.wg.Wait()
}

// obey makes one change for the daemon.
func (s *clientSession) obey(r request) {
	v, f, err := s.do(&r)
	r.close()
	var files []*os.File
	if f != nil {
		defer f.Close()
		files = append(files, f)
	}
	if err := s.l.reply(r.message, v, err, files...); err != nil && !errors.Is(err, ErrGone) {
		s.l.fail(fmt.Errorf("answer %s: %w", r.Kind, err))
	}
}

func (s *clientSession) do(r *request) (v any, f *os.File, err error) {
	switch r.Kind {
	case kindPlug:
		return s.plug(r.message)
	case kindUnplug:
		b, err := body[idBody](r.message)
		if err != nil {
			return nil, nil, err
		}
		if b.Endpoint == "" {
			return nil, nil, errors.New("no endpoint")
		}
		return nil, nil, s.unplug(b.Endpoint)
	case kindRoutes:
		b, err := body[plumb.Routes](r.message)
		if err == nil {
			err = s.change(shim.Change{Routes: &b})
		}
		return nil, nil, err
	case kindFiles:
		b, err := body[filesBody](r.message)
		if err == nil && len(b.Files) > 0 {
			err = s.change(shim.Change{Files: b.Files})
		}
		return nil, nil, err
	case kindKeep:
		return nil, nil, s.c.keep(r)
	case kindGoodbye:
		b, err := body[goodbyeBody](r.message)
		s.c.mu.Lock()
		s.c.stopped = true
		s.c.mu.Unlock()
		s.c.log.Info("daemon ends", "reason", b.Reason)
		return nil, nil, err
	}
	return nil, nil, fmt.Errorf("unknown request %q", r.Kind)
}

// change has the shim make a change, which has the time of a request.
func (s *clientSession) change(ch shim.Change) error {
	ctx, cancel := context.WithTimeout(s.c.ctx, requestTimeout)
	defer cancel()
	reply := make(chan error, 1)
	ch.Reply = reply
	select {
	case s.c.changes <- ch:
	case <-ctx.Done():
		return errors.New("the sandbox is busy, or not started yet")
	case <-s.c.done:
		return control.ErrClosed
	case <-s.l.done:
		// Of a daemon that is gone; the next one says what it wants.
		return ErrGone
	}
	select {
	case err := <-reply:
		return err
	case <-s.c.done:
		return control.ErrClosed
	case <-ctx.Done():
		return errors.New("the sandbox did not make the change in time")
	}
}

// plug makes an interface; its TAP comes from the shim by Attach, while the change is made.
func (s *clientSession) plug(m message) (any, *os.File, error) {
	leg, err := body[cnm.RejoinEndpoint](m)
	if err != nil {
		return nil, nil, err
	}
	link := leg.Link
	c := s.c
	c.mu.Lock()
	known := link.EndpointID == "" || c.hasLegLocked(link.EndpointID)
	if !known {
		c.plugging = link.EndpointID
	}
	c.mu.Unlock()
	if known {
		return nil, nil, fmt.Errorf("endpoint %q is there already", link.EndpointID)
	}
	err = s.change(shim.Change{Plug: &link})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plugging = ""
	t := c.taps[link.EndpointID]
	if err == nil && t == nil {
		err = errors.New("the sandbox gave no TAP")
	}
	var f *os.File
	if err == nil {
		f, err = t.fd.file()
	}
	if err != nil {
		c.forgetLocked(link.EndpointID)
		return nil, nil, err
	}
	t.epoch = c.epoch // the daemon has it with the answer
	c.legs = append(c.legs, leg)
	return pluggedBody{t.info}, f, nil
}

func (s *clientSession) unplug(endpoint string) error {
	err := s.change(shim.Change{Unplug: endpoint})
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.forgetLocked(endpoint)
	}
	return err
}

func (c *Client) hasLegLocked(endpoint string) bool {
	return slices.ContainsFunc(c.legs, func(l cnm.RejoinEndpoint) bool { return l.Link.EndpointID == endpoint })
}

// forgetLocked drops a leg.
func (c *Client) forgetLocked(endpoint string) {
	c.legs = slices.DeleteFunc(c.legs, func(l cnm.RejoinEndpoint) bool { return l.Link.EndpointID == endpoint })
	if t := c.taps[endpoint]; t != nil {
		t.fd.close()
		delete(c.taps, endpoint)
	}
}

// keep takes a part of the sockets to keep; with the last one they replace the earlier set.
func (c *Client) keep(r *request) error {
	b, err := body[socketsBody](r.message)
	if err != nil {
		return err
	}
	if err := checkSockets(b, len(r.files)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.First {
		closeSockets(c.incoming)
		c.incoming = nil
	}
	if len(c.incoming)+len(r.files) > maxSockets {
		return fmt.Errorf("keep sockets: more than %d", maxSockets)
	}
	for i, f := range r.files {
		fd, err := hold(f)
		if err != nil {
			return fmt.Errorf("keep socket of %s: %w", b.Ports[i], err)
		}
		c.incoming = append(c.incoming, keptSocket{b.Ports[i], fd})
	}
	if b.Last {
		closeSockets(c.sockets)
		c.sockets, c.incoming = c.incoming, nil
	}
	return nil
}

// keepTAP remembers a duplicate of a TAP and says whether the daemon gets it by the change under way.
func (c *Client) keepTAP(endpoint string, dev *os.File, info tap.Info) (byPlug bool, err error) {
	fd, err := hold(dev)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	byPlug = c.plugging == endpoint
	known := byPlug || c.hasLegLocked(endpoint)
	if !known || c.taps[endpoint] != nil {
		fd.close()
		if !known {
			return false, errors.New("nobody asked for it")
		}
		return false, errors.New("it is attached already")
	}
	t := &keptTAP{fd: fd, info: info}
	if byPlug {
		t.epoch = c.epoch
	}
	c.taps[endpoint] = t
	return byPlug, nil
}

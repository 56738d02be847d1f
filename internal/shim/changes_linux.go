package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
)

// Changes of a running sandbox.
//
// # Theory of operation
//
// One goroutine takes changes from the Network and makes one after the other: it asks the process in the
// namespaces (init, or a helper run for the purpose), waits for its answer, gives a new TAP to the Network,
// and replies. It alone knows which interfaces and routes there are, so that a route which went with its
// interface is not taken for one to be replaced.
//
// What asks is in the sandbox, and so at the mercy of what runs there: a hostile container can stop its
// init. A change that is not answered in changePatience has failed; an answer that comes later is dropped, and a
// TAP in it closed, which removes the interface.

// changePatience is how long a change may take: a thousand times what it does.
const changePatience = 10 * time.Second

// changer makes the changes of one sandbox.
type changer struct {
	net Network
	// ask has a change made in the namespaces. A TAP in the answer is the caller's.
	ask func(ctx context.Context, ch change) (message, error)
	// signal sends a signal to CMD.
	signal func(syscall.Signal) error

	links  map[string]plumb.Link // by Endpoint
	routes plumb.Routes
}

func newChanger(n Network, links []plumb.Link, routes plumb.Routes) *changer {
	c := &changer{net: n, links: map[string]plumb.Link{}, routes: routes}
	for _, l := range links {
		c.links[l.EndpointID] = l
	}
	return c
}

// run makes changes until ctx ends.
func (c *changer) run(ctx context.Context) {
	changes := c.net.Changes()
	for {
		select {
		case <-ctx.Done():
			return
		case ch, ok := <-changes:
			if !ok {
				return
			}
			err := c.make(ctx, ch)
			if err != nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || ctx.Err() != nil) {
				err = ErrEnded
			}
			ch.Reply <- err
		}
	}
}

func (c *changer) make(ctx context.Context, ch Change) error {
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	switch {
	case ch.Plug != nil:
		return c.plug(ctx, *ch.Plug)
	case ch.Unplug != "":
		return c.unplug(ctx, ch.Unplug)
	case ch.Routes != nil:
		if _, err := c.ask(ctx, change{Routes: &routeChange{Was: c.routes, Want: *ch.Routes}}); err != nil {
			return err
		}
		c.routes = *ch.Routes
		return nil
	case len(ch.Files) > 0:
		_, err := c.ask(ctx, change{Files: ch.Files})
		return err
	case ch.Signal != 0:
		return c.signal(ch.Signal)
	case len(ch.Sockets) > 0:
		return c.sockets(ctx, ch)
	}
	return errors.New("change a sandbox: the change asks for nothing")
}

func (c *changer) plug(ctx context.Context, l plumb.Link) error {
	if has, ok := c.links[l.EndpointID]; ok {
		return fmt.Errorf("make interface %s: endpoint %s has %s already", l.Name, l.EndpointID, has.Name)
	}
	m, err := c.ask(ctx, change{Plug: &l})
	if err != nil {
		return err
	}
	if m.file == nil || m.Info == nil {
		m.close()
		return fmt.Errorf("make interface %s: no TAP came", l.Name)
	}
	err = c.net.Attach(l.EndpointID, m.file, *m.Info)
	m.close()
	if err != nil {
		_, uerr := c.ask(ctx, change{Unplug: l.Name})
		return errors.Join(err, uerr)
	}
	c.links[l.EndpointID] = l
	return nil
}

// sockets has sockets made and hands them over.
func (c *changer) sockets(ctx context.Context, ch Change) error {
	m, err := c.ask(ctx, change{Sockets: ch.Sockets})
	if err != nil {
		return err
	}
	if err := m.checkSockets(len(ch.Sockets)); err != nil {
		return err
	}
	ch.Made(m.sockets)
	return nil
}

// checkSockets makes sure that there are as many as were asked for; otherwise none stays open.
func (m *message) checkSockets(wanted int) error {
	if len(m.sockets) != wanted {
		m.close()
		return fmt.Errorf("make sockets: %d came instead of %d; raise the limit of open files (ulimit -n)", len(m.sockets), wanted)
	}
	return nil
}

// unplug is content when there is no such interface: who asks may not know whether its plug came to anything.
func (c *changer) unplug(ctx context.Context, endpointID string) error {
	l, ok := c.links[endpointID]
	if !ok {
		return nil
	}
	if _, err := c.ask(ctx, change{Unplug: l.Name}); err != nil {
		return err
	}
	delete(c.links, endpointID)
	// What led by the interface went with it.
	for _, h := range []*plumb.Hop{&c.routes.Default4, &c.routes.Default6, &c.routes.Resolver} {
		if h.Dev == l.Name {
			*h = plumb.Hop{}
		}
	}
	return nil
}

// answers matches what init answers with what it was asked.
type answers struct {
	conn *conn
	from chan message // kindChanged, by whoever receives from init; it does not wait
	last uint64
}

// ask has init make a change.
func (a *answers) ask(ctx context.Context, ch change) (message, error) {
	a.last++
	if err := a.conn.send(message{Kind: kindChange, ID: a.last, Change: &ch}); err != nil {
		return message{}, err
	}
	for {
		select {
		case m := <-a.from:
			if m.ID != a.last { // of a change that was given up
				m.close()
				continue
			}
			if m.Error != "" {
				m.close()
				return message{}, errors.New(m.Error)
			}
			return m, nil
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return message{}, fmt.Errorf("the sandbox's init does not answer in %v; has it been stopped?", changePatience)
			}
			return message{}, ctx.Err()
		}
	}
}

// deliver hands over an answer; one that nobody waits for is dropped.
func (a *answers) deliver(m message) {
	select {
	case a.from <- m:
	default:
		m.close()
	}
}

// close drops an answer that came too late.
func (a *answers) close() {
	select {
	case m := <-a.from:
		m.close()
	default:
	}
}

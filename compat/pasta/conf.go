package pasta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/compat/pesto"
	"github.com/usernet/usernet/internal/sys"
)

// The configuration socket (-c), by which pesto changes ports.
//
// One client at a time is served, so that two never take each other's changes back: a client is told what there is and
// says what is to be. One that says nothing is hung up on after confPatience, which is how long a hostile one can keep
// others waiting; the socket is its owner's alone (0600) to begin with.

const confPatience = 5 * time.Second

// The interfaces by the numbers that the original gives them.
const (
	hostInterface   = 1
	spliceInterface = 3
)

// confServer serves the configuration socket.
type confServer struct {
	l     *net.UnixListener
	ports *ports
	log   *slog.Logger
	wg    sync.WaitGroup
	stop  context.CancelFunc
}

// listenConf makes the socket. One that a pasta which has ended left behind is replaced, one that is in use is not.
func listenConf(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	if c, err := net.DialUnix("unix", nil, addr); err == nil {
		c.Close()
		return nil, fmt.Errorf("UNIX domain socket %s already in use", path)
	}
	if err := sys.FreeSocketPath(path); err != nil {
		return nil, fmt.Errorf("Couldn't open control socket %s: %w", path, err)
	}
	l, err := sys.ListenUnix("unix", path)
	if err != nil {
		return nil, fmt.Errorf("Couldn't open control socket %s: %w", path, err)
	}
	return l, nil
}

// serveConf serves l, which it closes, until close.
func serveConf(l *net.UnixListener, p *ports, log *slog.Logger) *confServer {
	s := &confServer{l: l, ports: p, log: log}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.accept(ctx) })
	return s
}

func (s *confServer) close() {
	s.stop()
	s.l.Close()
	s.wg.Wait()
}

func (s *confServer) accept(ctx context.Context) {
	for {
		c, err := s.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn("configuration client not accepted", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second): // out of descriptors, most likely
			}
			continue
		}
		s.serve(ctx, c)
	}
}

// serve takes one client from hello to goodbye.
func (s *confServer) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
	if err := c.SetDeadline(time.Now().Add(confPatience)); err != nil {
		return
	}
	in, out := s.ports.tables()
	have := []pesto.Interface{{ID: hostInterface, Name: pesto.Host, Table: in}, {ID: spliceInterface, Name: pesto.Splice, Table: out}}
	if err := pesto.WriteState(c, have); err != nil {
		return
	}
	want, ok, err := pesto.ReadUpdate(c, have)
	if err == nil && ok {
		err = s.apply(ctx, want)
	}
	if err == nil {
		return
	}
	s.log.Warn("configuration client refused", "err", err)
	// A client that is the original's has hung up; ours waits for the reason.
	if c.SetWriteDeadline(time.Now().Add(confPatience)) == nil {
		_, _ = c.Write([]byte(err.Error()))
	}
}

func (s *confServer) apply(ctx context.Context, want []pesto.Interface) error {
	tables := map[uint8]forward.Table{}
	for _, i := range want {
		tables[i.ID] = i.Table
	}
	if err := s.ports.set(ctx, tables[hostInterface], tables[spliceInterface]); err != nil {
		return bindText(err)
	}
	s.log.Info("new forwarding rules", "host", tables[hostInterface].Rules, "splice", tables[spliceInterface].Rules)
	return nil
}

// confSocket is what there is to end beside the Network: the configuration socket, if there is one, and the ports.
type confSocket struct {
	wg sync.WaitGroup // whoever may call serve

	mu     sync.Mutex // guards what follows
	l      *net.UnixListener
	server *confServer
	ports  *ports
	closed bool
}

// listen makes the socket; clients wait until it is served.
func (c *confSocket) listen(path string) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l, err = listenConf(path)
	return err
}

// serve takes p over and begins to serve it.
func (c *confSocket) serve(p *ports, log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		p.close()
		return
	}
	if c.ports = p; c.l != nil {
		c.server = serveConf(c.l, p, log)
	}
}

// close ends all of it and waits. It is safe to call more than once.
func (c *confSocket) close() {
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	switch {
	case c.server != nil:
		c.server.close()
	case c.l != nil:
		c.l.Close()
	}
	if c.ports != nil {
		c.ports.close()
	}
}

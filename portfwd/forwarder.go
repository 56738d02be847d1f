package portfwd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/spec"
)

// Dialer carries the streams of published TCP ports into the Network. The gateway is one; tests have another.
type Dialer interface {
	// Forward connects to `to` as `from`, relays until both directions are done or ctx ends, and
	// closes client, with a reset when the container refused or ctx ended. from.Addr is as it
	// stands; from.Port is a wish, and another is taken when {from, to} is in use. It is called
	// by many goroutines at once and blocks until all is over.
	Forward(ctx context.Context, client *net.TCPConn, from, to netip.AddrPort) error
}

// Limits bound what clients from outside can make the datapath hold. Zero fields mean the defaults.
type Limits struct {
	Conns            int           // TCP connections in all; 16384
	ConnsPerListener int           // and of one listener; 4096
	Flows            int           // UDP flows in all; 16384
	FlowsPerListener int           // and of one listener; 4096
	UDPIdle          time.Duration // after which a UDP flow is forgotten; 300 s (RFC 4787 REQ-5)
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Conns, 16384}, {&l.ConnsPerListener, 4096}, {&l.Flows, 16384}, {&l.FlowsPerListener, 4096}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if l.UDPIdle <= 0 {
		l.UDPIdle = 300 * time.Second
	}
	return l
}

// Config is what a Forwarder needs.
type Config struct {
	Dialer Dialer
	Emit   ip.Emitter
	// Gateway4 and Gateway6 stand for clients whose own address a container cannot answer.
	Gateway4, Gateway6 netip.Addr
	// Subnets are the Network's: clients with such an address seem to come from the gateway.
	Subnets []netip.Prefix
	// Maps are the Network's addresses that stand for the host's: a client with such an address of the host seems to
	// come from what stands for it.
	Maps []spec.AddrMap
	// MTU is the containers', in layer 3 bytes; 0 means 1500. It decides only which datagrams may
	// travel together as one USO packet.
	MTU    int
	Limits Limits
	Drops  *drop.Counters // nil counts nowhere
	Log    *slog.Logger   // nil discards
}

// Forwarder serves the sockets of published ports; see the package comment. It opens no files and
// asks nothing of the kernel but what a confined process may.
type Forwarder struct {
	cfg     Config
	sources sources
	conns   atomic.Int64 // TCP connections open now, and what they count for beyond one descriptor each
	spliced atomic.Int64 // TCP connections that do not go through the Dialer
	flows   *flowTable
	// reversed is how many flows the UDP listeners inside containers have.
	reversed atomic.Int64
	batches  *sys.BatchPool
	senders  sync.Pool // *sender
	wg       sync.WaitGroup
	stop     chan struct{} // closed by Close; ends expireFlows
	dirty    dirtyList

	mu       sync.Mutex // a leaf
	servers  map[string]*running
	expiring bool // expireFlows runs
	closed   bool
}

// server serves one socket. run returns when close was called and everything it started has ended.
type server interface {
	run(ctx context.Context)
	close() error
}

// running is a server with its goroutine.
type running struct {
	server
	cancel context.CancelFunc
	done   chan struct{}
}

// receiveBatch datagrams, each up to 64 KiB, come with one system call.
const receiveBatch = 16

// NewForwarder makes a Forwarder without sockets.
func NewForwarder(c Config) *Forwarder {
	c.Limits = c.Limits.withDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	f := &Forwarder{
		cfg:     c,
		sources: sources{gateway4: c.Gateway4, gateway6: c.Gateway6, subnets: c.Subnets, maps: c.Maps},
		batches: sys.NewBatchPool(receiveBatch, 65535),
		stop:    make(chan struct{}),
		servers: make(map[string]*running),
	}
	f.senders.New = func() any { return newSender() }
	f.flows = newFlowTable(c.Limits.UDPIdle, c.Limits.FlowsPerListener, c.Limits.Flows, randomPort)
	return f
}

// randomPort picks from the ports an ordinary program may have, unpredictably (RFC 6056).
func randomPort() uint16 { return uint16(1024 + rand.IntN(65536-1024)) }

// Add serves the socket f, which Listen made for s, and leads it to t. id names it for Remove. The
// Forwarder takes f over and closes it, on an error too.
func (fw *Forwarder) Add(id string, s Spec, f *os.File, t Target) error {
	defer f.Close() // the server has a duplicate
	t = t.narrow(s.To)
	err := s.validate()
	if err == nil && !s.Reverse {
		err = fw.sources.check(t)
	}
	if err == nil {
		err = fw.start(id, s, f, t)
	}
	if err != nil {
		return fmt.Errorf("add published port %s (%s): %w", id, s, err)
	}
	fw.cfg.Log.Info("port published", "id", id, "spec", s.String(), "addr4", t.Addr4, "addr6", t.Addr6)
	return nil
}

func (fw *Forwarder) start(id string, s Spec, f *os.File, t Target) error {
	srv, err := fw.newServer(s, f, t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{server: srv, cancel: cancel, done: make(chan struct{})}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	switch {
	case fw.closed:
		err = net.ErrClosed
	case fw.servers[id] != nil:
		err = os.ErrExist
	}
	if err != nil {
		cancel()
		return errors.Join(err, srv.close())
	}
	fw.servers[id] = r
	fw.wg.Go(func() {
		defer close(r.done)
		srv.run(ctx)
	})
	if s.Proto == UDP && !s.Reverse && !fw.expiring {
		fw.expiring = true
		fw.wg.Go(fw.expireFlows)
	}
	return nil
}

func (fw *Forwarder) newServer(s Spec, f *os.File, t Target) (server, error) {
	if s.Proto == TCP {
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		if tcp, ok := ln.(*net.TCPListener); ok {
			return newTCPServer(fw, s, t, tcp), nil
		}
		return nil, errors.Join(errors.New("not a TCP socket"), ln.Close())
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	if udp, ok := pc.(*net.UDPConn); ok {
		if s.Reverse {
			return newReverseUDP(fw, s, udp)
		}
		return newUDPServer(fw, s, t, udp)
	}
	return nil, errors.Join(errors.New("not a UDP socket"), pc.Close())
}

// Remove closes the socket that id names, with its connections and flows, and waits for them. An
// unknown id is removed already.
func (fw *Forwarder) Remove(id string) error {
	fw.mu.Lock()
	r := fw.servers[id]
	delete(fw.servers, id)
	fw.mu.Unlock()
	if r == nil {
		return nil
	}
	err := r.end()
	<-r.done
	fw.cfg.Log.Info("port unpublished", "id", id)
	return err
}

func (r *running) end() error {
	r.cancel()
	return r.close()
}

// Close removes everything and waits. Add fails afterwards. It is idempotent.
func (fw *Forwarder) Close() error {
	fw.mu.Lock()
	servers := fw.servers
	fw.servers = nil
	if !fw.closed {
		close(fw.stop)
	}
	fw.closed = true
	fw.mu.Unlock()
	var errs []error
	for _, r := range servers {
		errs = append(errs, r.end())
	}
	fw.wg.Wait()
	return errors.Join(errs...)
}

// expireFlows forgets idle UDP flows until Close.
func (fw *Forwarder) expireFlows() {
	// A flow that is due is not used any more either way; this only gives its memory back, so once
	// in a tenth of its life is enough.
	tick := time.NewTicker(max(fw.cfg.Limits.UDPIdle/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			fw.flows.expire(now)
		case <-fw.stop:
			return
		}
	}
}

// Conns is the number of TCP connections now, as the limits count them.
func (fw *Forwarder) Conns() int { return int(fw.conns.Load()) }

// Spliced is the number of TCP connections now that the Dialer does not know of.
func (fw *Forwarder) Spliced() int { return int(fw.spliced.Load()) }

// Flows is the number of UDP flows now.
func (fw *Forwarder) Flows() int { return fw.flows.len() + int(fw.reversed.Load()) }

package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
)

// Ports of the host's loopback inside a container.
//
// # Theory of operation
//
// The listener was made in the container's network namespace (Spec.Reverse); everything else is the host's. A TCP
// connection is accepted there, another one made to the host's loopback, and the two spliced. For UDP each
// client inside has a connected socket on the host, so that answers find their way and the service sees clients
// apart; its goroutine sends what comes back from the address that the client spoke to, and ends it when it is idle.
//
// Whoever publishes such a port lets the container reach a service that is bound to the host's loopback: that is its
// purpose, and nothing but this one port can be reached by it.

// hostDialTimeout bounds a connection to the host's loopback, where a full queue of a service drops the SYN.
const hostDialTimeout = 10 * time.Second

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// hostAddr is where the connections of a Reverse Spec go.
func (s Spec) hostAddr() netip.AddrPort {
	if s.HostIP.Is6() {
		return netip.AddrPortFrom(netip.IPv6Loopback(), s.Port)
	}
	return netip.AddrPortFrom(loopback4, s.Port)
}

// toHost carries a connection that was accepted inside a container.
func (s *tcpServer) toHost(ctx context.Context, c *net.TCPConn) {
	if !s.more(spliceCost) {
		s.fw.cfg.Drops.Add(drop.PublishLimit)
		_ = c.SetLinger(0)
		return
	}
	defer s.less(spliceCost)
	client, err := connOf(c)
	if err == nil {
		err = control(client.raw, closeAtOnce)
	}
	if err != nil {
		return
	}
	host, err := dialHost(ctx, s.spec.hostAddr())
	if err != nil {
		_ = c.SetLinger(0) // refused is refused
		s.fw.cfg.Log.Debug("connection to the host refused", "spec", s.spec.String(), "err", err)
		return
	}
	s.fw.spliced.Add(1)
	defer s.fw.spliced.Add(-1)
	if err := splice(ctx, client, host); err != nil {
		s.fw.cfg.Log.Debug("connection to the host ended", "spec", s.spec.String(), "err", err)
	}
}

// dialHost connects to a service on the host's loopback.
func dialHost(ctx context.Context, to netip.AddrPort) (*conn, error) {
	d := net.Dialer{Timeout: hostDialTimeout, Control: func(_, _ string, rc syscall.RawConn) error { return control(rc, sys.InlineUrgent) }}
	c, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	return connOf(c)
}

// reverseUDP serves one UDP listener inside a container.
type reverseUDP struct {
	fw   *Forwarder
	spec Spec
	conn *net.UDPConn
	rc   syscall.RawConn
	wg   sync.WaitGroup // the flows'

	mu    sync.Mutex // a leaf; guards what follows
	flows map[reverseKey]*reverseFlow
	ended bool
}

// reverseKey tells clients apart.
type reverseKey struct {
	client netip.AddrPort
	scope  uint32
	local  netip.Addr // the address the client spoke to
}

// reverseFlow is one client's exchange with the host.
type reverseFlow struct {
	key  reverseKey
	host *net.UDPConn
	used atomic.Int64 // nanoseconds after the flow began
}

func newReverseUDP(fw *Forwarder, s Spec, c *net.UDPConn) (*reverseUDP, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &reverseUDP{fw: fw, spec: s, conn: c, rc: rc, flows: make(map[reverseKey]*reverseFlow)}, nil
}

func (u *reverseUDP) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	for _, f := range u.flows {
		f.host.Close()
	}
	return u.conn.Close()
}

func (u *reverseUDP) run(ctx context.Context) {
	defer u.wg.Wait()
	rx := sys.NewReceiver(u.rc, u.fw.batches)
	var b backoff
	for {
		batch, err := rx.Recv()
		switch {
		case err == nil:
			b.reset()
			for i := range batch.Len() {
				u.receive(batch.Message(i))
			}
			u.fw.batches.Put(batch)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		case !b.active():
			u.fw.cfg.Log.Warn("cannot receive datagrams, trying again", "spec", u.spec.String(), "err", err)
		}
		if !b.wait(ctx) {
			return
		}
	}
}

// receive sends a datagram of a client inside to the host.
func (u *reverseUDP) receive(m sys.Received) {
	if m.Truncated {
		u.fw.cfg.Drops.Add(drop.NotForUs)
		return
	}
	f, reason := u.flow(reverseKey{m.From, m.Scope, m.Local})
	if f == nil {
		u.fw.cfg.Drops.Add(reason)
		return
	}
	if _, err := f.host.Write(m.Data); err != nil {
		u.fw.cfg.Drops.Add(drop.SocketError) // the service is not there, or gone
	}
}

// flow finds or makes the flow of a client.
func (u *reverseUDP) flow(k reverseKey) (*reverseFlow, drop.Reason) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f := u.flows[k]; f != nil {
		f.touch()
		return f, drop.None
	}
	if u.ended || len(u.flows) >= u.fw.cfg.Limits.FlowsPerListener {
		return nil, drop.PublishLimit
	}
	if all := u.fw.reversed.Add(1); all > int64(u.fw.cfg.Limits.Flows) {
		u.fw.reversed.Add(-1)
		return nil, drop.PublishLimit
	}
	host, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.spec.hostAddr()))
	if err != nil {
		u.fw.reversed.Add(-1)
		return nil, drop.SocketError
	}
	f := &reverseFlow{key: k, host: host}
	f.touch()
	u.flows[k] = f
	u.wg.Go(func() {
		u.answer(f)
		u.forget(f)
	})
	return f, drop.None
}

func (u *reverseUDP) forget(f *reverseFlow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.flows, f.key)
	f.host.Close()
	u.fw.reversed.Add(-1)
}

// began is what times are counted from; only differences matter.
var began = time.Now()

func (f *reverseFlow) touch()              { f.used.Store(int64(time.Since(began))) }
func (f *reverseFlow) idle() time.Duration { return time.Since(began) - time.Duration(f.used.Load()) }

// answer sends what the host answers to the client, until the flow is idle or closed.
func (u *reverseUDP) answer(f *reverseFlow) {
	rc, err := f.host.SyscallConn()
	if err != nil {
		return
	}
	rx, tx := sys.NewReceiver(rc, u.fw.batches), sys.NewSendBatch(1, 1)
	var b backoff
	for wait := u.fw.cfg.Limits.UDPIdle; ; {
		_ = f.host.SetReadDeadline(time.Now().Add(wait)) // fails when it is closed, and so does the receive
		batch, err := rx.Recv()
		switch {
		case err == nil:
			b.reset()
			f.touch()
			for i := range batch.Len() {
				m := batch.Message(i)
				u.send(tx, f, m.Data)
			}
			u.fw.batches.Put(batch)
			wait = u.fw.cfg.Limits.UDPIdle
		case errors.Is(err, net.ErrClosed):
			return
		case isTimeout(err):
			if wait = u.fw.cfg.Limits.UDPIdle - f.idle(); wait <= 0 {
				return
			}
		case errors.Is(err, syscall.ECONNREFUSED): // of an earlier datagram; the service may come yet
		case !b.wait(context.Background()):
			return
		}
	}
}

// send sends one answer from the address the client spoke to.
func (u *reverseUDP) send(tx *sys.SendBatch, f *reverseFlow, data []byte) {
	d := sys.Datagram{To: f.key.client, Scope: f.key.scope, Local: f.key.local, Data: [][]byte{data}}
	if len(data) == 0 {
		d.Data = nil
	}
	tx.Add(&d)
	if _, err := tx.Send(u.rc); err != nil && !errors.Is(err, net.ErrClosed) {
		u.fw.cfg.Drops.Add(drop.SocketError)
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

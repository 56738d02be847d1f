package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// udpServer receives the datagrams of one published port and emits them into the Network.
//
// A datagram the kernel joined from several of one client (UDP_GRO) goes to the container as one USO
// packet when each part fits the container's MTU, so a stream crosses the switch in 64 KiB units
// as TCP does; otherwise its parts go one by one, and the Emitter fragments what is too long.
type udpServer struct {
	fw     *Forwarder
	spec   Spec
	target Target
	conn   *net.UDPConn
	rc     syscall.RawConn
	group  *flowGroup
	queue  replyQueue
	// trainMax is the largest datagram we join to a train of our own; it falls as the kernel refuses them.
	trainMax atomic.Int32

	// Of the receiving goroutine.
	header [ip.HeaderLen6 + ip.UDPHeaderLen]byte
	l3     [2][]byte
}

func newUDPServer(fw *Forwarder, s Spec, t Target, c *net.UDPConn) (*udpServer, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	u := &udpServer{fw: fw, spec: s, target: t, conn: c, rc: rc}
	u.trainMax.Store(noTrainMax)
	u.group = fw.flows.addGroup(u)
	return u, nil
}

func (u *udpServer) close() error {
	u.fw.flows.removeGroup(u.group)
	return u.conn.Close()
}

func (u *udpServer) run(ctx context.Context) {
	rx := sys.NewReceiver(u.rc, u.fw.batches)
	var b backoff
	for {
		batch, err := rx.Recv()
		switch {
		case err == nil:
			b.reset()
			u.receive(time.Now(), batch)
			sys.Linger(batch.Bytes())
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

// arrival is what has come from one client: a datagram, or several of segment bytes each but the last.
type arrival struct {
	flow    *flow
	data    []byte
	segment int
}

// join moves m to the end of what has come by f, if it belongs there. A packet to the container costs the same for one
// datagram as for a train of them.
func (a *arrival) join(f *flow, m *sys.Received) bool {
	single := m.Segment == 0 || len(m.Data) <= m.Segment
	switch {
	case a.flow != f || len(m.Data) == 0 || a.segment == 0:
		return false
	case len(a.data)%a.segment != 0: // it ends with a shorter one, which is the last
		return false
	case single && len(m.Data) > a.segment || !single && m.Segment != a.segment:
		return false
	case len(a.data)+len(m.Data) > trainBytes || (len(a.data)+len(m.Data))/a.segment > kernelSegments:
		return false
	}
	// In place: behind a message there is room for the largest.
	a.data = append(a.data, m.Data...)
	return true
}

// receive emits a batch to the container. It runs on the server's goroutine.
func (u *udpServer) receive(now time.Time, batch *sys.RecvBatch) {
	var a arrival
	for i := range batch.Len() {
		m := batch.Message(i)
		if m.Truncated || m.Local.IsMulticast() {
			// A published port is one of the host's addresses, as Docker's rules have it.
			u.fw.cfg.Drops.Add(drop.NotForUs)
			continue
		}
		f, reason := u.flowOf(now, &m)
		if f == nil {
			u.fw.cfg.Drops.Add(reason)
			continue
		}
		if a.join(f, &m) {
			continue
		}
		if a.flow != nil {
			u.emit(a.flow, a.data, a.segment)
		}
		a = arrival{f, m.Data, m.Segment}
		if a.segment == 0 {
			a.segment = len(m.Data)
		}
	}
	if a.flow != nil {
		u.emit(a.flow, a.data, a.segment)
	}
}

func (u *udpServer) flowOf(now time.Time, m *sys.Received) (*flow, drop.Reason) {
	k := clientKey{group: u.group, client: m.From, scope: m.Scope, local: m.Local}
	if f := u.fw.flows.fromClient(now, k); f != nil {
		return f, drop.None
	}
	from, to := u.fw.sources.route(m.From, u.target, u.spec.Port)
	ifIndex := 0
	if m.From.Addr().IsLinkLocalUnicast() || m.Local.IsLinkLocalUnicast() {
		ifIndex = m.IfIndex // elsewhere routing knows better than where the datagram came in
	}
	return u.fw.flows.add(now, k, replyKey{container: to, peer: from}, ifIndex)
}

// emit sends a payload, cut into datagrams of segment bytes unless that is 0.
func (u *udpServer) emit(f *flow, payload []byte, segment int) {
	if segment <= 0 || segment >= len(payload) {
		if !u.emitOne(f, payload, 0) {
			// From an IPv6 client to an IPv4 container: 65508 to 65527 bytes, which only IPv6 carries.
			u.fw.cfg.Drops.Add(drop.IPMalformed)
		}
		return
	}
	if ip.UDPHeadersLen(f.reply.peer.Addr())+segment <= u.fw.cfg.MTU && u.emitOne(f, payload, segment) {
		return
	}
	for len(payload) > 0 {
		n := min(segment, len(payload))
		u.emitOne(f, payload[:n], 0)
		payload = payload[n:]
	}
}

// emitOne sends one packet and reports false when there is no packet of that size. The checksum is
// left to whoever receives it, which in most cases is a kernel that trusts its TAP.
func (u *udpServer) emitOne(f *flow, payload []byte, segment int) bool {
	from, to := f.reply.peer, f.reply.container
	n := ip.PutUDPHeaders(u.header[:], from, to, len(payload), ip.UDPOpts{Partial: true})
	if n == 0 {
		return false
	}
	u.l3 = [2][]byte{u.header[:n], payload}
	l3 := u.l3[:]
	if len(payload) == 0 {
		l3 = l3[:1]
	}
	// A packet that is not accepted has been counted by who refused it.
	u.fw.cfg.Emit.EmitIP(to.Addr(), ip.UDPVNet(from.Addr(), segment), l3)
	return true
}

// InputUDP takes a datagram from a container and reports whether it answers a client of a published
// port. If so it was queued, and Flush sends it; p is not used after the return. p is whole, and
// its checksum was verified.
func (fw *Forwarder) InputUDP(p *ip.Packet) bool {
	if fw.flows.empty() { // every datagram of a container comes by
		return false
	}
	src, dst, ok := p.Ports()
	if !ok {
		return false
	}
	f := fw.flows.fromContainer(time.Now(), replyKey{
		container: netip.AddrPortFrom(p.Src, src), peer: netip.AddrPortFrom(p.Dst, dst),
	})
	if f == nil {
		return false
	}
	payload, ok := p.UDPPayload()
	segment := 0
	if p.VNet.GSOType&^l2.GSOECN == l2.GSOUDPL4 {
		segment = int(p.VNet.GSOSize)
	}
	if !ok || segment > 0 && len(payload) > segment*maxSegments {
		fw.cfg.Drops.Add(drop.VNetBad)
		return true
	}
	fw.queue(f, payload, segment)
	return true
}

// Flush sends the replies that InputUDP queued. It is called when the TAP has nothing more to read.
func (fw *Forwarder) Flush() {
	for u := fw.dirty.pop(); u != nil; u = fw.dirty.pop() {
		u.flush()
	}
}

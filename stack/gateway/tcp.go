package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

const protoTCP = 6

// TCP buffers of a flow. They are limits, not allocations: an idle flow holds none of it.
const (
	// maxBuffer is what it takes for the container to go on sending while we write, and to read long bursts instead of
	// waking up for each 64 KiB; netstack offers half of it as the window. One stream up, MTU 1500, needs 0.40 s of CPU
	// per GB with 1 MiB, 0.35 with 2 and 0.31 with 4, and is 1.7, 1.8 and 2.2 times as fast as a plain relay.
	maxBuffer = 4 << 20
	// maxSend is the most that is queued towards the container. netstack tells of room when half of it is free, which is one
	// burst then; with 1 MiB 16 streams down need 0.6 s of CPU per GB instead of 0.45, as much of a burst waits for room.
	maxSend = 2 << 20
	// minBuffer is what a flow has when thousands share the budget: 64 KiB is one TSO segment.
	minBuffer = 64 << 10
	// bufferBudget is shared by the flows, half for each direction: 32 have maxBuffer each way, of which they use maxSend towards the
	// container. What a flow may is settled when it begins, so 2048 slow readers can make us hold 1 GiB.
	bufferBudget = 256 << 20
	// growBudget is what flows that turn out to need more than they began with may buffer beyond it: half the budget more.
	// One stream beside 5000 idle flows had a quarter of its throughput without.
	growBudget = bufferBudget / 2
	// longBuffer is the most a flow on a long path may buffer in one direction.
	longBuffer = 16 << 20
	// minRTO is what a loss costs that nothing later tells of. It must be more than Linux delays an ACK on a short path
	// (TCP_DELACK_MIN, 40 ms). With netstack's own, 200 ms, 10 MiB took 20 s on a wire that loses 1 %, with this one 7.
	minRTO = 60 * time.Millisecond
	// initialWindow is the window a SYN-ACK offers; netstack scales from there.
	initialWindow = maxBuffer
)

// Keepalive finds peers that vanished: 60 s + 9 × 15 s, so a flow of a lost peer is freed in 195 s.
// An idle flow with both peers alive is never ended, which more than meets RFC 5382 REQ-5. To turn it on takes four system calls, and from
// then on netstack sets a timer with each segment. So a flow gets it when it is keepaliveFrom old, which most flows never are; a peer that
// vanishes before that is missed 2 s later.
const (
	keepaliveFrom     = 2 * time.Second
	keepaliveIdle     = 60 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 9
)

// bufferSize is the buffer each direction of a flow may use when there are that many flows.
func bufferSize(flows int) int64 {
	return min(maxBuffer, max(minBuffer, bufferBudget/int64(2*max(flows, 1))))
}

func setTCPOptions(s *gvstack.Stack) error {
	sack := tcpip.TCPSACKEnabled(true)
	// No RACK. It takes a reader that is scheduled late for a loss, and its tail loss probe fires after
	// two round trips, which are 200 µs here: iperf3 -R counted 4 to 48 segments sent twice in 2 s (DSACKs), without
	// it none, and a download costs an eighth more CPU with it (0.64 → 0.72 s/GB, medians of 4). A TAP loses nothing, so SACK
	// recovery is the better one, slower on a wire that loses 1 %: 10 MiB in 7 s instead of 2.5 (BenchmarkLoss).
	recovery := tcpip.TCPRecovery(0)
	rto := tcpip.TCPMinRTOOption(minRTO)
	cc := tcpip.CongestionControlOption("cubic")
	moderate := tcpip.TCPModerateReceiveBufferOption(false) // bufferSize decides instead
	nagle := tcpip.TCPDelayEnabled(false)
	// netstack would let every flow grow to Max by itself but for setFlowOptions.
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: maxBuffer, Max: longBuffer}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: maxSend, Max: longBuffer}
	// SYN-ACKs go out at 0, 1, 3, 7 s; handshakeTimeout ends the wait.
	syn := tcpip.TCPSynRetriesOption(3)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &cc, &moderate, &nagle, &rcv, &snd, &syn, &rto} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set %T: %s", o, err)
		}
	}
	return nil
}

// handleSYN decides about a SYN that matches no connection: policy, limits, dial, and only then the
// SYN-ACK, so that "refused" means refused. It runs on a goroutine of synWorkers.
func (g *Gateway) handleSYN(r *tcp.ForwarderRequest) {
	id := r.ID()
	src := netip.AddrPortFrom(toNetip(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(toNetip(id.LocalAddress), id.LocalPort)
	v := g.cfg.Policy.Check(protoTCP, dst)
	if !v.Allow {
		g.drops.Add(drop.PolicyDenied)
		g.deny(r, src, dst)
		return
	}
	container := g.Station(src.Addr())
	a := &attempt{g: g, src: src, dst: dst}
	slot, ok := g.handshakes.admit(owner{g, container}, g.handshakeLimit, a.giveUp)
	if !ok {
		g.drops.Add(drop.HandshakeLimit)
		r.Complete(false) // silent: the client's retransmission may find a slot
		return
	}
	defer g.handshakes.done(slot)
	all, ok := g.flows.add(container, g.flowLimit)
	if !ok {
		g.drops.Add(drop.FlowLimit)
		r.Complete(true)
		return
	}
	to := netip.AddrPortFrom(v.Dial, dst.Port())
	server := serverID(to)
	late := g.cfg.Shared.servers.has(server)
	fl, err := g.newFlow(container, func() (int, error) { return g.dial(a, to, v.Mapped, late) })
	if err != nil {
		g.endFlow(container)
		g.refuse(r, a, err)
		return
	}
	fl.answersTo(server, late, a.spares)
	ep, err := a.acknowledge(r, &fl.wq)
	r.Complete(false)
	if err != nil {
		g.endFlow(container)
		fl.abandon()
		return
	}
	g.handshakes.done(slot)
	setFlowOptions(ep, all)
	g.wg.Add(1) // the flow's, while this goroutine still has its own
	fl.start(ep)
}

// newFlow makes a flow of the host socket that open returns.
func (g *Gateway) newFlow(container l2.MAC, open func() (fd int, err error)) (*flow, error) {
	c, err := g.carriers.get()
	if err != nil {
		return nil, err
	}
	fd, err := open()
	if err != nil {
		return nil, err
	}
	return &flow{fd: fd, c: c, g: g, owner: container, credit: firstCredit}, nil
}

// deny answers a SYN the policy does not let through: with a reset, so that the container need not wait, or as
// spec.Policy.HostUnreachable wants it.
func (g *Gateway) deny(r *tcp.ForwarderRequest, src, dst netip.AddrPort) {
	if g.cfg.Spec.Policy.HostUnreachable && g.own[dst.Addr()] {
		if quote := g.syns.take(src, dst); quote != nil {
			r.Complete(false)
			g.synError(src, dst, quote, ip.NetUnreachable)
			return
		}
	}
	r.Complete(true)
}

// enter counts a goroutine that is not ours to start, unless the gateway is closing.
func (g *Gateway) enter() bool {
	g.enterMu.Lock()
	defer g.enterMu.Unlock()
	if g.closed.Load() {
		return false
	}
	g.wg.Add(1)
	return true
}

// dial opens a connection from the host, from the configured outbound address and interface where there are any.
func (g *Gateway) dial(a *attempt, to netip.AddrPort, mapped, late bool) (fd int, err error) {
	by := outbound{from: g.cfg.Spec.Outbound4, device: g.cfg.Spec.OutboundDevice4}
	if to.Addr().Unmap().Is6() {
		by = outbound{from: g.cfg.Spec.Outbound6, device: g.cfg.Spec.OutboundDevice6}
	}
	if mapped {
		by = outbound{} // the host itself cannot be reached from an outside address or interface
	}
	if g.cfg.Dial == nil && by == (outbound{}) {
		by.spares = g.sparesFor(to.Addr().Unmap())
		a.spares = by.spares
	}
	by.lateACK = late
	if g.cfg.Dial == nil {
		return dialHost(a.context, by, to)
	}
	ctx, done := a.context()
	defer done()
	c, err := g.cfg.Dial(ctx, "tcp", by.from, to)
	if err != nil {
		return -1, err
	}
	return adopt(c)
}

// refuse tells the container why its connection failed, in the terms its kernel turns into the same
// errno the dial had here.
func (g *Gateway) refuse(r *tcp.ForwarderRequest, a *attempt, err error) {
	switch {
	case errors.Is(err, syscall.EHOSTUNREACH):
		r.Complete(false)
		g.synError(a.src, a.dst, a.quoted(), ip.HostUnreachable)
	case errors.Is(err, syscall.ENETUNREACH):
		r.Complete(false)
		g.synError(a.src, a.dst, a.quoted(), ip.NetUnreachable)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		r.Complete(false)
		g.synError(a.src, a.dst, a.quoted(), ip.AdminProhibited)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		// Silence outside is silence inside: the container's kernel retransmits and times out.
		r.Complete(false)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		r.Complete(true)
	default:
		// Out of descriptors, ports or memory: fail fast instead of hanging.
		g.drops.Add(drop.SocketError)
		g.log.Debug("dial failed", "to", a.dst, "err", err)
		r.Complete(true)
	}
}

// synError answers a SYN with an ICMP error that quotes it. Without the quote (it was pushed out by
// a flood) the container's kernel would ignore the error, so none is sent.
func (g *Gateway) synError(src, dst netip.AddrPort, quote []byte, kind ip.ErrorKind) {
	if quote == nil {
		return
	}
	hdr := 40
	if src.Addr().Is4() {
		hdr = int(quote[0]&0xf) * 4
	}
	orig := &ip.Packet{Src: src.Addr(), Dst: dst.Addr(), Proto: protoTCP, HdrLen: hdr, Data: quote}
	g.icmpError(orig, kind, 0)
}

// Forward connects to `to` as `from` inside the Network and relays client until both ends are
// done, or ctx ends, which resets both. It implements portfwd.Dialer. It closes client in every
// case; a container that refuses resets it.
func (g *Gateway) Forward(ctx context.Context, client *net.TCPConn, from, to netip.AddrPort) error {
	if !g.enter() {
		reset(client)
		return net.ErrClosed
	}
	defer g.wg.Done()
	container := g.Station(to.Addr())
	all, ok := g.flows.add(container, g.flowLimit)
	if !ok {
		g.drops.Add(drop.FlowLimit)
		reset(client)
		return fmt.Errorf("forward to %s: container or network is at its limit of flows", to)
	}
	fl, err := g.newFlow(container, func() (int, error) { return adopt(client) })
	if err != nil {
		g.endFlow(container)
		reset(client)
		return err
	}
	fl.done = make(chan struct{})
	g.find(ctx, to.Addr())
	ep, err := g.connect(ctx, &fl.wq, from, to)
	if err != nil {
		g.endFlow(container)
		resetSocket(fl.fd)
		return err
	}
	setFlowOptions(ep, all)
	g.wg.Add(1)
	fl.start(ep)
	// The port may be unpublished before either side ends.
	select {
	case <-fl.done:
	case <-ctx.Done():
		fl.work(newsKill)
		<-fl.done
	}
	return nil
}

// find asks where a container lives that has said nothing yet, and waits for the answer. Left to a connection, netstack
// would ask in the name of an address of the outside, which few containers answer, and take learn's fixed entry
// for the end of its question, which refuses the client.
func (g *Gateway) find(ctx context.Context, a netip.Addr) {
	if _, known := g.neighbours.lookup(a); known {
		return
	}
	local := g.linkLL
	if a.Is4() {
		local = g.cfg.Spec.DNS4
		if !g.own[local] {
			local = g.cfg.Spec.Gateway4
		}
	}
	if !local.IsValid() {
		return
	}
	s, err := g.netstack()
	if err != nil {
		return
	}
	answered := make(chan struct{})
	terr := s.GetLinkAddress(nicID, toTCPIP(a), toTCPIP(local), netProto(a), func(gvstack.LinkResolutionResult) { close(answered) })
	if _, asked := terr.(*tcpip.ErrWouldBlock); !asked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	select {
	case <-answered:
	case <-ctx.Done():
	case <-g.ctx.Done():
	}
}

// connect opens a connection from an outside address to a container.
func (g *Gateway) connect(ctx context.Context, wq *waiter.Queue, from, to netip.AddrPort) (tcpip.Endpoint, error) {
	s, err := g.netstack()
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	ep, terr := s.NewEndpoint(tcp.ProtocolNumber, netProto(to.Addr()), wq)
	if terr != nil {
		return nil, fmt.Errorf("connect to %s: %s", to, terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	local := tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(from.Addr()), Port: from.Port()}
	if terr = ep.Bind(local); terr != nil {
		// The same client port is in use towards this Network through another published port.
		local.Port = 0
		terr = ep.Bind(local)
	}
	if terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(to.Addr()), Port: to.Port()})
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			terr = &tcpip.ErrTimeout{}
		case <-g.ctx.Done():
			terr = &tcpip.ErrAborted{}
		}
	}
	if terr != nil {
		ep.Close()
		return nil, fmt.Errorf("connect to %s: %s", to, terr)
	}
	return ep, nil
}

func setFlowOptions(ep tcpip.Endpoint, flows int) {
	o := ep.SocketOptions()
	size := bufferSize(flows)
	if size < maxBuffer {
		o.SetReceiveBufferSize(size, true)
	}
	o.SetSendBufferSize(min(size, maxSend), true) // a size that is set stays
}

// keepAlive has an endpoint look for a container that vanished.
func keepAlive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

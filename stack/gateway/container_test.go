package gateway

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/gso"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/nat"
	"github.com/usernet/usernet/stack/spec"
)

// TestMain makes a leaked reference to netstack's memory fail the run (SK-06).
func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	refs.DoLeakCheck()
	os.Exit(code)
}

var (
	testNet = spec.Network{
		Name: "test", MTU: 1500,
		Subnet4: netip.MustParsePrefix("10.0.2.0/24"), Gateway4: netip.MustParseAddr("10.0.2.2"), DNS4: netip.MustParseAddr("10.0.2.3"),
		Subnet6: netip.MustParsePrefix("fd00::/64"), Gateway6: netip.MustParseAddr("fd00::2"), DNS6: netip.MustParseAddr("fd00::3"),
		GatewayMAC: l2.MAC{0x52, 0x55, 0x0a, 0, 2, 2},
	}
	container4   = netip.MustParseAddr("10.0.2.100")
	container6   = netip.MustParseAddr("fd00::100")
	containerMAC = l2.MAC{0x52, 0x55, 0x0a, 0, 2, 100}
)

// world is a gateway, a container with a TCP/IP stack of its own (a second netstack) and a wire
// between them that can lose frames. The outside is the test's Dial.
type world struct {
	t     testing.TB
	gw    *Gateway
	drops *drop.Counters
	c     *gvstack.Stack

	toContainer, toGateway *wire
	dispatcher             atomic.Pointer[gvstack.NetworkDispatcher] // nil: the container's stack is closed
}

// wire carries copies of frames on one goroutine, as a TAP does. It drops a frame with probability
// loss, swaps neighbours with probability reorder, and each is on its way for delay.
type wire struct {
	mu            sync.Mutex
	rng           *rand.Rand    // guarded by mu
	loss, reorder float64       // guarded by mu
	held          *l2.Frame     // guarded by mu
	splitter      gso.Splitter  // guarded by mu
	ended         bool          // guarded by mu; then ch is closed
	delay         time.Duration // guarded by mu
	ch            chan sentFrame
	tap           func(f *l2.Frame) bool // false drops
	done          chan struct{}
}

// sentFrame is a frame on a wire.
type sentFrame struct {
	l2.Frame
	due time.Time // when it arrives; zero: at once
}

func newWire(out func(f *l2.Frame)) *wire {
	w := &wire{rng: rand.New(rand.NewPCG(0, 0)), ch: make(chan sentFrame, 4096), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for f := range w.ch {
			if !f.due.IsZero() {
				<-time.After(time.Until(f.due))
			}
			out(&f.Frame)
		}
	}()
	return w
}

func (w *wire) send(f *l2.Frame) {
	if w.tap != nil && !w.tap(f) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loss == 0 && w.reorder == 0 || !gso.Needed(f.VNet) {
		w.sendLocked(f)
		return
	}
	// What is lost on a wire is a packet, not a segment of 64 KiB.
	w.splitter.Split(f, w.sendLocked)
}

func (w *wire) sendLocked(f *l2.Frame) {
	var flat []byte
	for _, p := range f.L3 {
		flat = append(flat, p...)
	}
	c := l2.Frame{VNet: f.VNet, Header: f.Header, L3: [][]byte{flat}}
	if w.rng.Float64() < w.loss {
		return
	}
	if w.held == nil && w.rng.Float64() < w.reorder {
		w.held = &c
		return
	}
	w.putLocked(c)
	if w.held != nil {
		w.putLocked(*w.held)
		w.held = nil
	}
}

func (w *wire) putLocked(f l2.Frame) {
	if w.ended {
		return // a stack that was closed still answers what was on its way
	}
	s := sentFrame{Frame: f}
	if w.delay > 0 {
		s.due = time.Now().Add(w.delay)
	}
	select {
	case w.ch <- s:
	default: // a full queue loses, as the kernel's does
	}
}

// close waits until everything on the wire has arrived.
func (w *wire) close() {
	w.mu.Lock()
	w.ended = true
	close(w.ch)
	w.mu.Unlock()
	<-w.done
}

// stretch delays what is sent from now on.
func (w *wire) stretch(delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = delay
}

func (w *wire) impair(seed uint64, loss, reorder float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rng, w.loss, w.reorder = rand.New(rand.NewPCG(seed, 0)), loss, reorder
}

type worldOption func(*Config)

func withDial(d func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error)) worldOption {
	return func(c *Config) { c.Dial = d }
}

func mustPolicy(t testing.TB, n spec.Network) *nat.Policy {
	t.Helper()
	p, err := nat.NewPolicy(n, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWorld(t testing.TB, opts ...worldOption) *world {
	t.Helper()
	w := &world{t: t, drops: new(drop.Counters)}
	cfg := Config{Spec: testNet, Drops: w.drops, Log: slog.New(slog.DiscardHandler)}
	for _, o := range opts {
		o(&cfg)
	}
	cfg.Policy = mustPolicy(t, cfg.Spec)
	gw, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.gw = gw
	w.c = w.newContainer()
	w.toGateway = newWire(func(f *l2.Frame) { gw.Output([]l2.Frame{*f}); gw.Flush() })
	w.toContainer = newWire(w.deliver)
	gw.Use(Services{Link: func(fs []l2.Frame) {
		for i := range fs {
			w.toContainer.send(&fs[i])
		}
	}})
	gw.AddNeighbour(container4, containerMAC)
	gw.AddNeighbour(container6, containerMAC)
	t.Cleanup(func() {
		gw.Close()
		w.c.Close()
		w.c.Wait()
		w.toGateway.close()
		w.toContainer.close()
	})
	return w
}

func (w *world) newContainer() *gvstack.Stack {
	s := gvstack.New(gvstack.Options{
		NetworkProtocols:   []gvstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gvstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.CreateNIC(1, &containerLink{w: w}); err != nil {
		w.t.Fatal(err)
	}
	for _, a := range []netip.Prefix{netip.PrefixFrom(container4, 24), netip.PrefixFrom(container6, 64)} {
		pa := tcpip.ProtocolAddress{Protocol: netProto(a.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: toTCPIP(a.Addr()), PrefixLen: a.Bits()}}
		if err := s.AddProtocolAddress(1, pa, gvstack.AddressProperties{}); err != nil {
			w.t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: toSubnet(testNet.Subnet4), NIC: 1},
		{Destination: toSubnet(testNet.Subnet6), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: toTCPIP(testNet.Gateway4), NIC: 1},
		{Destination: header.IPv6EmptySubnet, Gateway: toTCPIP(testNet.Gateway6), NIC: 1},
	})
	return s
}

// deliver gives a frame to the container's stack.
func (w *world) deliver(f *l2.Frame) {
	if d := w.dispatcher.Load(); d != nil && len(f.L3[0]) > 0 {
		pkt := gvstack.NewPacketBuffer(gvstack.PacketBufferOptions{Payload: buffer.MakeWithData(f.L3[0])})
		(*d).DeliverNetworkPacket(tcpip.NetworkProtocolNumber(f.Header.Type()), pkt)
		pkt.DecRef()
	}
}

// dial connects from the container.
func (w *world) dial(ctx context.Context, to string) (*gonet.TCPConn, error) {
	ap := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, w.c, tcpip.FullAddress{NIC: 1, Addr: toTCPIP(ap.Addr()), Port: ap.Port()}, netProto(ap.Addr()))
}

// raw sends an IP packet as the container's kernel would not.
func (w *world) raw(packet []byte) {
	t := l2.TypeIPv4
	if packet[0]>>4 == 6 {
		t = l2.TypeIPv6
	}
	w.toGateway.ch <- sentFrame{Frame: l2.Frame{Header: l2.MakeHeader(testNet.GatewayMAC, containerMAC, t), L3: [][]byte{packet}}}
}

// containerLink is the container's NIC: MTU 1500, segmentation and checksums left to the wire as
// Linux does on a TAP with offloads.
type containerLink struct{ w *world }

func (l *containerLink) MTU() uint32                             { return 1500 }
func (l *containerLink) SetMTU(uint32)                           {}
func (l *containerLink) MaxHeaderLength() uint16                 { return 0 }
func (l *containerLink) LinkAddress() tcpip.LinkAddress          { return tcpip.LinkAddress(containerMAC[:]) }
func (l *containerLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *containerLink) IsAttached() bool                        { return l.w.dispatcher.Load() != nil }
func (l *containerLink) Wait()                                   {}
func (l *containerLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *containerLink) AddHeader(*gvstack.PacketBuffer)         {}
func (l *containerLink) ParseHeader(*gvstack.PacketBuffer) bool  { return true }
func (l *containerLink) Close()                                  {}
func (l *containerLink) SetOnCloseAction(func())                 {}
func (l *containerLink) GSOMaxSize() uint32                      { return gsoMaxSize }
func (l *containerLink) SupportedGSO() gvstack.SupportedGSO      { return gvstack.HostGSOSupported }
func (l *containerLink) Capabilities() gvstack.LinkEndpointCapabilities {
	return gvstack.CapabilityRXChecksumOffload | gvstack.CapabilityResolutionRequired
}

func (l *containerLink) Attach(d gvstack.NetworkDispatcher) {
	if d == nil {
		l.w.dispatcher.Store(nil)
		return
	}
	l.w.dispatcher.Store(&d)
}

func (l *containerLink) WritePackets(pkts gvstack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		f := l2.Frame{
			Header: l2.MakeHeader(macOf(pkt.EgressRoute.RemoteLinkAddress), containerMAC, l2.EtherType(pkt.NetworkProtocolNumber)),
			VNet:   vnetOf(pkt),
			L3:     appendParts(nil, pkt),
		}
		l.w.toGateway.send(&f)
	}
	return pkts.Len(), nil
}

// outside is a TCP listener on the host's loopback, and a Dial that leads every address to it.
type outside struct {
	l *net.TCPListener
}

func newOutside(t testing.TB) *outside {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &outside{l: l}
}

func (o *outside) dial(ctx context.Context, network string, _ netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, o.l.Addr().String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (o *outside) accept(t testing.TB) *net.TCPConn {
	t.Helper()
	o.l.SetDeadline(time.Now().Add(10 * time.Second))
	c, err := o.l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func toSubnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: toTCPIP(p.Masked().Addr()), PrefixLen: p.Bits()}.Subnet()
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	gvlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/nat"
	"github.com/usernet/usernet/stack/quota"
	"github.com/usernet/usernet/stack/spec"
)

const (
	nicID = 1

	// dialTimeout bounds a connection attempt to the outside. A container that wants to wait
	// longer retransmits its SYN and starts another.
	dialTimeout = 10 * time.Second

	// defaultHandshakes and defaultFlows are per container; totalHandshakes is for the
	// process. Tailscale allows 8192 in flight, gvisor-tap-vsock 10, which ten silent SYNs block
	// for two minutes.
	defaultHandshakes = 256
	totalHandshakes   = 2048
	defaultFlows      = 4096

	// Reassembly quota of each container.
	fragmentBytes     = 256 << 10
	fragmentDatagrams = 64
	fragmentTimeout   = 30 * time.Second
)

// netstack has one logger per process, which writes to standard error. A container can make it write (packets to
// a loopback address do), and nothing it says is for the user.
func init() { gvlog.SetTarget(silent{}) }

type silent struct{}

// Emit implements gvlog.Emitter.
func (silent) Emit(int, gvlog.Level, time.Time, string, ...any) {}

// DatagramHandler takes packets that belong to it and reports true for those.
// The packet is borrowed until it returns.
type DatagramHandler interface {
	Input(p *ip.Packet) bool
}

// DNS answers queries; see dnsproxy.Server.
type DNS interface {
	HandleUDP(query []byte, from netip.AddrPort, reply func(msg []byte))
	ServeTCP(l net.Listener) error
}

// UDPNAT carries datagrams to the outside; see nat.UDP.
type UDPNAT interface {
	Input(p *ip.Packet)
	Flush()
}

// Pinger carries echo requests to the outside; see nat.Ping.
type Pinger interface {
	Input(p *ip.Packet)
}

// Config is what a Gateway is made of. Spec and Policy are required.
type Config struct {
	Spec   spec.Network
	Policy *nat.Policy
	Drops  *drop.Counters
	Log    *slog.Logger
	// Shared is what the gateways of the process share; nil means that this is the only one.
	Shared *Shared
	// Dial opens connections to the outside; nil means the host's sockets.
	// Tests give one that hangs, refuses or stays in memory.
	Dial DialFunc
}

// DialFunc opens a TCP connection from an address of the host, or from the one the kernel chooses when it is zero.
type DialFunc func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error)

// Shared is what the gateways of one process share: the bounds that keep the process alive.
type Shared struct {
	handshakes *handshakes
	flows      *quota.Pool
	grown      atomic.Int64 // bytes of growBudget that flows have taken
	bursts     burstQuota
	servers    lateServers
	spares     atomic.Int64 // sockets kept by all gateways
}

// NewShared makes it. flows are the TCP flows that all may have, each of which is a descriptor; nil: no bound.
func NewShared(flows *quota.Pool) *Shared {
	return &Shared{handshakes: newHandshakes(totalHandshakes), flows: flows}
}

// Services are the gateway's neighbours in the packet path. They are made after the gateway, since
// they send through it, and set once with Use, before the first frame.
type Services struct {
	// Link puts frames into the bridge as coming from the gateway's port.
	Link func(frames []l2.Frame)
	// Published sees every datagram of a container first: it may answer a published port's client.
	Published func(p *ip.Packet) bool
	// FlushPublished sends the answers Published queued.
	FlushPublished func()
	// Autoconf answers DHCP and router solicitations.
	Autoconf DatagramHandler
	DNS      DNS
	UDP      UDPNAT
	Ping     Pinger
}

// Gateway is one Network's router. It is an l2.Port; attach it to the bridge as a trusted port.
type Gateway struct {
	cfg    Config
	svc    Services
	drops  *drop.Counters
	log    *slog.Logger
	stack  lazyStack
	link   *linkEndpoint
	linkLL netip.Addr // our link-local address, invalid without IPv6

	// Fixed after New: gateway, DNS and link-local addresses, and where the name server answers.
	own      map[netip.Addr]bool
	addrs    []netip.Addr // netstack's: own, and the resolver's
	dnsAddrs []netip.Addr

	neighbours neighbours
	inside     inside
	reasm      reassembly
	icmpErrors *ip.Limiters
	echoes     *ip.Limiters // pings to our own addresses

	syns           synQuotes
	workers        synWorkers
	answers        elders          // attempts that wait for the ACK of their SYN-ACK
	young          elders          // flows that have no keepalive yet
	late           elders          // flows whose server waits for our ACK
	spares         [4]spareSockets // see sparesFor
	handshakes     *handshakes
	handshakeLimit int // of one container
	flowLimit      int // of one container
	flows          *flowCount
	carriers       carriers
	acks           ackHolder
	trimming       atomic.Bool // see endFlow

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	enterMu sync.Mutex  // orders enter with Close
	closed  atomic.Bool // set with enterMu held
}

// New makes a gateway. Nothing moves before Use.
func New(cfg Config) (*Gateway, error) {
	if cfg.Policy == nil {
		return nil, errors.New("create gateway: no policy")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Shared == nil {
		cfg.Shared = NewShared(nil)
	}
	g := &Gateway{
		cfg: cfg, drops: cfg.Drops, log: cfg.Log,
		own:            make(map[netip.Addr]bool),
		handshakes:     cfg.Shared.handshakes,
		handshakeLimit: orDefault(cfg.Spec.Limits.TCPHandshakes, defaultHandshakes),
		flowLimit:      orDefault(cfg.Spec.Limits.TCPFlows, defaultFlows),
		flows:          newFlowCount(cfg.Shared.flows.Share()),
		icmpErrors:     ip.NewLimiters(ip.ErrorsPerSecond, ip.ErrorBurst),
		echoes:         ip.NewLimiters(echoesPerSecond, echoesPerSecond),
	}
	g.carriers.processors, g.carriers.most = sys.Processors, sys.MostProcessors()
	g.acks.g = g
	g.workers.g, g.workers.requests = g, make(chan *tcp.ForwarderRequest)
	g.answers.g, g.answers.age = g, handshakeTimeout
	g.young.g, g.young.age = g, keepaliveFrom
	g.late.g, g.late.age = g, lateFor
	for i := range g.spares {
		g.spares[i].g, g.spares[i].age = g, spareFor
	}
	g.neighbours.init()
	g.reasm.Reassembler = ip.NewReassembler(fragmentBytes, fragmentDatagrams, fragmentTimeout)
	g.reasm.Drops = cfg.Drops
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.link = newLinkEndpoint(g)
	if err := g.chooseAddresses(); err != nil {
		g.cancel()
		return nil, fmt.Errorf("create gateway: %w", err)
	}
	return g, nil
}

func orDefault(v, d int) int {
	if v > 0 {
		return v
	}
	return d
}

// Use connects the gateway to its neighbours.
func (g *Gateway) Use(s Services) { g.svc = s }

// MTU is the Network's.
func (g *Gateway) MTU() int { return g.cfg.Spec.MTU }

func (g *Gateway) String() string { return "gateway" }

// Flows is the number of TCP connections now carried.
func (g *Gateway) Flows() int { return g.flows.total() }

// Close resets all flows, stops the name server's listeners and waits for every goroutine.
// It is idempotent.
func (g *Gateway) Close() error {
	g.enterMu.Lock()
	again := g.closed.Swap(true)
	g.enterMu.Unlock()
	if again {
		return nil
	}
	g.cancel()
	s := g.stack.seal()
	g.carriers.stop()
	g.answers.stop()
	g.young.stop()
	g.late.stop()
	g.wg.Wait()
	g.workers.stop()
	for i := range g.spares {
		g.spares[i].close()
	}
	g.reasm.close()
	g.acks.close()
	if s != nil {
		s.Close()
		s.Wait()
	}
	return nil
}

// LinkLocal is the IPv6 link-local address of a MAC (RFC 4291 appendix A, modified EUI-64).
func LinkLocal(m l2.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

func toTCPIP(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func toNetip(a tcpip.Address) netip.Addr {
	if a.Len() == 4 {
		return netip.AddrFrom4(a.As4())
	}
	return netip.AddrFrom16(a.As16())
}

func netProto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

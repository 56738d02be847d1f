package gateway

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/header/parse"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

const (
	// gsoMaxSize bounds the TCP payload netstack puts into one segment. An IP packet is at most
	// 65535 bytes with its headers; netstack itself takes off its largest TCP/IP headers.
	gsoMaxSize = 65535
	// takeThreshold is the packet size from which a 64 KiB block goes to netstack as it is. Below
	// it the packet is copied: at most half of a block that waits in a receive queue is then waste.
	takeThreshold = 32 << 10
	// splitThreshold is the payload from which headers have a block of their own; see inject. Below it netstack's
	// copy costs less than a second block.
	splitThreshold = 512
)

// linkEndpoint is netstack's view of the bridge. It hands out segments of up to 64 KiB with partial
// checksums (HostGSOSupported) and accepts frames whose checksums were checked before.
//
// It must not report CapabilityTXChecksumOffload: netstack would then leave the checksum out of
// everything that is not a GSO segment (SYN, RST, ICMP), and only GSOOptions say which is which.
type linkEndpoint struct {
	g   *Gateway
	mac tcpip.LinkAddress

	mu         sync.RWMutex
	dispatcher gvstack.NetworkDispatcher   // guarded by mu; nil when detached
	segments   gvstack.TransportDispatcher // guarded by mu; the same, one layer up

	scratch sync.Pool // *outScratch
}

// outScratch is the memory one WritePackets call needs to describe its frames.
type outScratch struct {
	frames [16]l2.Frame
	parts  [16 * 8][]byte
}

func newLinkEndpoint(g *Gateway) *linkEndpoint {
	mac := g.cfg.Spec.GatewayMAC
	return &linkEndpoint{
		g: g, mac: tcpip.LinkAddress(mac[:]),
		scratch: sync.Pool{New: func() any { return new(outScratch) }},
	}
}

var (
	_ gvstack.LinkEndpoint = (*linkEndpoint)(nil)
	_ gvstack.GSOEndpoint  = (*linkEndpoint)(nil)
)

// MTU implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) MTU() uint32 { return uint32(e.g.cfg.Spec.MTU) }

// SetMTU implements stack.NetworkLinkEndpoint; the MTU of a Network does not change.
func (e *linkEndpoint) SetMTU(uint32) {}

// MaxHeaderLength implements stack.NetworkLinkEndpoint: the Ethernet header is not part of the packet.
func (e *linkEndpoint) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) LinkAddress() tcpip.LinkAddress { return e.mac }

// SetLinkAddress implements stack.NetworkLinkEndpoint; the gateway's address does not change.
func (e *linkEndpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) Capabilities() gvstack.LinkEndpointCapabilities {
	return gvstack.CapabilityRXChecksumOffload | gvstack.CapabilityResolutionRequired
}

// GSOMaxSize implements stack.GSOEndpoint.
func (e *linkEndpoint) GSOMaxSize() uint32 { return gsoMaxSize }

// SupportedGSO implements stack.GSOEndpoint.
func (e *linkEndpoint) SupportedGSO() gvstack.SupportedGSO { return gvstack.HostGSOSupported }

// Attach implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) Attach(d gvstack.NetworkDispatcher) {
	e.mu.Lock()
	e.dispatcher = d
	e.segments, _ = d.(gvstack.TransportDispatcher)
	e.mu.Unlock()
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// Wait implements stack.NetworkLinkEndpoint; there are no goroutines here.
func (e *linkEndpoint) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.NetworkLinkEndpoint; WritePackets makes the Ethernet header.
func (e *linkEndpoint) AddHeader(*gvstack.PacketBuffer) {}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) ParseHeader(*gvstack.PacketBuffer) bool { return true }

// Close implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (e *linkEndpoint) SetOnCloseAction(func()) {}

// WritePackets implements stack.LinkWriter: netstack's packets become frames of the bridge.
// It runs on whatever goroutine made netstack send, often with an endpoint's lock held.
func (e *linkEndpoint) WritePackets(pkts gvstack.PacketBufferList) (int, tcpip.Error) {
	all := pkts.AsSlice()
	if len(all) == 1 && e.g.acks.hold(all[0]) {
		return 1, nil
	}
	e.write(pkts)
	return len(all), nil
}

// write is WritePackets without regard to what may wait.
func (e *linkEndpoint) write(pkts gvstack.PacketBufferList) {
	s := e.scratch.Get().(*outScratch)
	parts, n := s.parts[:0], 0
	for _, pkt := range pkts.AsSlice() {
		if n == len(s.frames) || cap(parts)-len(parts) < 8 {
			e.g.svc.Link(s.frames[:n])
			parts, n = s.parts[:0], 0
		}
		first := len(parts)
		parts = appendParts(parts, pkt)
		f := &s.frames[n]
		f.L3 = parts[first:len(parts):len(parts)]
		f.Header = l2.MakeHeader(macOf(pkt.EgressRoute.RemoteLinkAddress), macOf(e.mac), l2.EtherType(pkt.NetworkProtocolNumber))
		f.VNet = vnetOf(pkt)
		n++
	}
	if n > 0 {
		e.g.svc.Link(s.frames[:n])
	}
	clear(s.frames[:]) // do not keep netstack's memory reachable
	clear(s.parts[:])
	e.scratch.Put(s)
}

// appendParts lists the memory of a packet without copying: the headers first, then the payload.
// A packet in more pieces than the scratch has room for grows the slice on the heap.
func appendParts(parts [][]byte, pkt *gvstack.PacketBuffer) [][]byte {
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		parts = append(parts, b[skip:])
		skip = 0
	}
	return parts
}

// vnetOf describes a packet's offloads. Only a packet whose GSOOptions ask for a checksum carries a
// partial one; netstack finished all others.
func vnetOf(pkt *gvstack.PacketBuffer) (v l2.VNet) {
	o := &pkt.GSOOptions
	if o.Type == gvstack.GSONone {
		return v
	}
	if o.NeedsCsum {
		v.Flags = l2.VNetNeedsCsum
		v.CsumStart = l2.HeaderLen + o.L3HdrLen
		v.CsumOffset = o.CsumOffset
	}
	if pkt.Data().Size() > int(o.MSS) {
		v.GSOSize = o.MSS
		v.HdrLen = uint16(l2.HeaderLen + pkt.HeaderSize())
		switch o.Type {
		case gvstack.GSOTCPv4:
			v.GSOType = l2.GSOTCPv4
		case gvstack.GSOTCPv6:
			v.GSOType = l2.GSOTCPv6
		}
	}
	return v
}

func macOf(a tcpip.LinkAddress) (m l2.MAC) {
	copy(m[:], a)
	return m
}

// inject gives netstack one packet of a container, of which the first headers bytes are its headers. f is its
// frame, nil for a packet that was put together from several. A TCP segment whose IP header, of network bytes, has nothing
// left to be looked at, because ip.Parse has checked all that netstack's network layer would, goes to the transport layer
// at once: the way in took 7.0 % of the CPU time of short connections, without a look at addresses, filters and options 3.2. network is 0 for all others.
//
// netstack holds a view of the IP header while it asks the packet for it again, and then copies the block in which the
// header is, whole (PacketBuffer.headerView). So the headers get a block of their own, of 64 or 128 bytes: without it
// every 64 KiB were cleared and copied once more.
func (e *linkEndpoint) inject(f *l2.Frame, proto tcpip.NetworkProtocolNumber, packet []byte, network, headers int) {
	_, err := e.g.netstack() // which attaches
	e.mu.RLock()
	d, segments := e.dispatcher, e.segments
	e.mu.RUnlock()
	if err != nil || d == nil {
		e.g.drops.Add(drop.QueueFull)
		return
	}
	pkt := gvstack.NewPacketBuffer(gvstack.PacketBufferOptions{Payload: toBuffer(f, packet, headers)})
	defer pkt.DecRef()
	if network == 0 || segments == nil {
		d.DeliverNetworkPacket(proto, pkt)
		return
	}
	pkt.NetworkProtocolNumber, pkt.NICID, pkt.RXChecksumValidated = proto, nicID, true
	if _, ok := pkt.NetworkHeader().Consume(network); ok && parse.TCP(pkt) {
		segments.DeliverTransportPacket(header.TCPProtocolNumber, pkt)
	}
}

// toBuffer makes netstack's memory of a packet. The block of its frame is taken when that is worth it,
// otherwise the packet is copied.
func toBuffer(f *l2.Frame, packet []byte, headers int) buffer.Buffer {
	if len(packet)-headers < splitThreshold {
		return buffer.MakeWithView(buffer.NewViewWithData(packet))
	}
	b := buffer.MakeWithView(buffer.NewViewWithData(packet[:headers]))
	var payload *buffer.View
	if v, ok := bufView(f); ok && len(packet) >= takeThreshold && f.Buf.Take() {
		v.CapLength(len(packet))
		v.TrimFront(headers)
		payload = v
	} else {
		payload = buffer.NewViewWithData(packet[headers:])
	}
	rest := buffer.MakeWithView(payload)
	b.Merge(&rest)
	return b
}

func bufView(f *l2.Frame) (*buffer.View, bool) {
	if f == nil || f.Buf == nil || f.Buf.Taken() {
		return nil, false
	}
	v, ok := f.Buf.Handle.(*buffer.View)
	return v, ok
}

// Alloc is the l2.Allocator for ports that feed a gateway: its blocks are netstack's own, so a
// full one needs no copy.
func Alloc(n int) *l2.Buf {
	v := buffer.NewViewSize(n)
	return &l2.Buf{Data: v.AsSlice(), Handle: v}
}

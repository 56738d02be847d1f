package rootlesstests

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// udp makes a datagram.
func udp(from, to netip.AddrPort, text string) []byte { return packettest.UDP(from, to, []byte(text)) }

// gatewayMAC asks the sandbox for the MAC of its gateway.
func gatewayMAC(t testing.TB, sb *rig.Sandbox) l2.MAC {
	t.Helper()
	// The kernel finds it when it has something to send.
	sb.Run(t, "ping", "-c1", "-W5", "-n", rig.Gateway4.String())
	out := strings.Fields(sb.Run(t, "ip", "neigh", "show", rig.Gateway4.String(), "dev", rig.DevEth0))
	for i, w := range out {
		if w == "lladdr" && i+1 < len(out) {
			m, err := l2.ParseMAC(out[i+1])
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	t.Fatalf("neighbour table of the sandbox has no gateway: %s", out)
	return l2.MAC{}
}

// paced numbers the echo requests of pace.
var paced atomic.Uint32

// pace waits until the datapath has seen all that was sent before: the gateway answers an echo request that
// queues behind it. It also keeps senders within the queue of the TAP.
func pace(t testing.TB, link *rig.PacketSocket, gateway l2.MAC) {
	t.Helper()
	paceIn(t, link, gateway, rig.SandboxAddr4, rig.Gateway4)
}

// paceIn is pace in a network where a sandbox and its gateway have other addresses.
func paceIn(t testing.TB, link *rig.PacketSocket, gateway l2.MAC, own, to netip.Addr) {
	t.Helper()
	n := paced.Add(1)
	want := string(binary.BigEndian.AppendUint32([]byte("pace"), n))
	for range 10 {
		link.SendPacket(t, gateway, packettest.Echo(own, to, 0x7ace, uint16(n), []byte(want)))
		_, _, err := link.Receive(rig.Patience/20, func(d packettest.Decoded) bool {
			return d.Proto == packettest.ProtoICMP && d.Kind == 0 && string(d.Payload) == want
		})
		if err == nil {
			return
		}
	}
	t.Fatal("the gateway does not answer an echo request")
}

// isICMP matches ICMP messages of a type and code.
func isICMP(f family, kind, code uint8) func(packettest.Decoded) bool {
	return func(d packettest.Decoded) bool { return d.Proto == f.icmp && d.Kind == kind && d.Code == code }
}

// to matches packets of a protocol, any when it is 0, for an address.
func to(proto uint8, a netip.Addr) func(packettest.Decoded) bool {
	return func(d packettest.Decoded) bool { return (proto == 0 || d.Proto == proto) && d.Dst.Addr() == a }
}

// fragment makes the fragment of an IPv4 packet that has n bytes of its payload from offset.
func fragment(packet []byte, id uint16, offset, n int) []byte {
	const header = 20
	whole := len(packet) - header
	f := append([]byte(nil), packet[:header]...)
	f = append(f, packet[header+offset:header+min(offset+n, whole)]...)
	binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
	binary.BigEndian.PutUint16(f[4:], id)
	at := uint16(offset / 8)
	if offset+n < whole {
		at |= 0x2000 // more
	}
	binary.BigEndian.PutUint16(f[6:], at)
	return packettest.FixIPv4(f)
}

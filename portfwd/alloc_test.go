//go:build !race

package portfwd

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// sinkEmitter takes every packet and keeps nothing.
type sinkEmitter struct{}

func (sinkEmitter) EmitIP(netip.Addr, l2.VNet, [][]byte) bool { return true }

// TestUDPDoesNotAllocate: a datagram of a known flow costs the collector nothing, either way. (The
// race detector makes sync.Pool forget, so it is not for that build.)
func TestUDPDoesNotAllocate(t *testing.T) {
	fw := NewForwarder(Config{Emit: sinkEmitter{}, Gateway4: gateway4, Gateway6: gateway6})
	defer fw.Close()
	ls, err := Listen([]Spec{{Proto: UDP, HostIP: addr("127.0.0.1"), Port: 53}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := fw.Add("a", ls[0].Spec, ls[0].File, both); err != nil {
		t.Fatal(err)
	}
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	u := fw.servers["a"].server.(*udpServer)
	k := clientKey{group: u.group, client: sink.LocalAddr().(*net.UDPAddr).AddrPort(), local: addr("127.0.0.1")}
	peer := netip.AddrPortFrom(gateway4, k.client.Port())
	f, _ := fw.flows.add(time.Now(), k, replyKey{container: ap("10.0.2.100:53"), peer: peer}, 0)

	payload := make([]byte, 1400)
	b := make([]byte, ip.UDPHeadersLen(gateway4)+len(payload))
	ip.PutUDPHeaders(b, f.reply.container, peer, len(payload), ip.UDPOpts{Payload: payload})
	var p ip.Packet
	if r := ip.ParsePacket(&p, b); r != drop.None {
		t.Fatal(r)
	}
	rows := []struct {
		name string
		do   func()
	}{
		{"to the container", func() {
			fw.flows.fromClient(time.Now(), k)
			u.emit(f, payload, 0)
		}},
		{"to the client", func() {
			for range 8 {
				fw.InputUDP(&p)
			}
			fw.Flush()
		}},
	}
	for _, r := range rows {
		if n := testing.AllocsPerRun(200, r.do); n != 0 {
			t.Errorf("%s: %v allocations", r.name, n)
		}
	}
}

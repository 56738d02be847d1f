package rootlesstests

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// TestAddressTaken: who is about to take an address of the gateway is told that it is taken: a kernel by duplicate address detection
// (RFC 4862 §5.4), a DHCP client or the like by a probe (RFC 5227 §2.1.1). A free address is theirs.
func TestAddressTaken(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	sb.Run(t, "sysctl", "-qw", "net.ipv6.conf."+rig.DevEth0+".accept_dad=1")
	for addr, want := range map[netip.Addr]string{
		rig.Gateway6:                              "dadfailed",
		packettest.LinkLocal(gatewayMAC(t, sb)):   "dadfailed",
		netip.MustParseAddr("fd00::4d"):           "valid_lft",
		netip.MustParseAddr("fe80::1234:5678:9a"): "valid_lft",
	} {
		sb.Run(t, "ip", "addr", "add", addr.String()+"/64", "dev", rig.DevEth0)
		var out string
		rig.WaitFor(t, rig.Patience, "end of the detection of "+addr.String(), func() bool {
			out = sb.Run(t, "ip", "-6", "addr", "show", "dev", rig.DevEth0, "to", addr.String())
			return strings.Contains(out, "dadfailed") || !strings.Contains(out, "tentative")
		})
		if !strings.Contains(out, want) {
			t.Errorf("%s: want %s, have %s", addr, want, out)
		}
		sb.Run(t, "ip", "addr", "del", addr.String()+"/64", "dev", rig.DevEth0)
	}

	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	link.MustSend(t, packettest.Bytes(packettest.ARP(packettest.ARPRequest, link.MAC, netip.IPv4Unspecified(), l2.MAC{}, rig.Gateway4)))
	if err := link.File().SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	for answered := false; !answered; {
		n, err := link.File().Read(b)
		if err != nil {
			t.Fatalf("no answer to a probe: %v", err)
		}
		if f := packettest.Raw(b[:n]); f.Header.Type() == l2.TypeARP && f.Header.Src() == gateway {
			m := f.L3[0]
			answered = m[7] == packettest.ARPReply && l2.MAC(m[8:14]) == gateway && netip.AddrFrom4([4]byte(m[14:18])) == rig.Gateway4
		}
	}
}

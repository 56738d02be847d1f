package stack_test

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// networkOf is testNet as another Network of its process.
func networkOf(t *testing.T, h *stack.Host, change func(*spec.Network)) *stack.Network {
	t.Helper()
	n := testNet
	if change != nil {
		change(&n)
	}
	nw, err := h.New(n, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nw.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return nw
}

// HC-12, DU5, M7: what belongs to another Network is refused by TCP, UDP and ping.
func TestHC12ReservedPrefixes(t *testing.T) {
	h := stack.NewHost(stack.HostOptions{})
	n := networkOf(t, h, nil)
	if err := h.Reserve(testNet.Subnet4, testNet.Subnet6, netip.MustParsePrefix("172.19.0.0/16")); err != nil {
		t.Fatal(err)
	}
	a := attach(t, n, "a", 100, true)
	b := netip.MustParseAddr("172.19.0.2")
	a.toGateway(packettest.TCP(netip.AddrPortFrom(a.IP4, 1234), netip.AddrPortFrom(b, 80), packettest.SYN, 1, 0, nil))
	a.next("RST", isReset)
	a.toGateway(packettest.UDP(netip.AddrPortFrom(a.IP4, 1234), netip.AddrPortFrom(b, 80), []byte("x")))
	a.next("ICMP error for UDP", isProhibited)
	a.toGateway(packettest.Echo(a.IP4, b, 7, 1, nil))
	a.next("ICMP error for ping", isProhibited)
	if err := h.Release(netip.MustParsePrefix("172.20.0.0/16")); err == nil {
		t.Error("released what was not reserved")
	}
}

func isReset(_ l2.Frame, p packettest.Decoded) bool { return p.Flags&packettest.RST != 0 }

// isProhibited is an ICMP error that says "administratively prohibited", of either family.
func isProhibited(_ l2.Frame, p packettest.Decoded) bool {
	return p.Proto == packettest.ProtoICMP && p.Kind == 3 && p.Code == 13 || p.Proto == packettest.ProtoICMPv6 && p.Kind == 1 && p.Code == 1
}

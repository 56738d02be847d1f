package nat

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/usernet/usernet/stack/ip"
)

// slowReserved is the obvious set: a list.
type slowReserved []netip.Prefix

func (s slowReserved) contains(a netip.Addr) bool {
	for _, p := range s {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// The snapshot contains what a walk through the list finds, nested and repeated prefixes included.
func TestHC12ReservedModel(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		// Few bits vary, so that prefixes nest and addresses hit.
		b := byte(rapid.IntRange(0, 255).Draw(t, "byte"))
		c := byte(rapid.SampledFrom([]int{0, 1, 127, 128, 255}).Draw(t, "low"))
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte{0: 0xfd, 1: b, 15: c})
		}
		return netip.AddrFrom4([4]byte{10, b, 0, c})
	})
	rapid.Check(t, func(t *rapid.T) {
		var r Reserved
		var slow slowReserved
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(slow) > 0 && rapid.Bool().Draw(t, "remove") {
				i := rapid.IntRange(0, len(slow)-1).Draw(t, "which")
				if err := r.Remove(slow[i]); err != nil {
					t.Fatal(err)
				}
				slow = append(slow[:i], slow[i+1:]...)
			} else {
				a := addr.Draw(t, "addr")
				p := netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
				if err := r.Add(p); err != nil {
					t.Fatal(err)
				}
				slow = append(slow, p)
			}
			a := addr.Draw(t, "probe")
			if got, want := r.Contains(a), slow.contains(a); got != want {
				t.Fatalf("%v contains %v: %v, want %v", slow, a, got, want)
			}
		}
	})
}

func TestHC12ReservedErrors(t *testing.T) {
	var r Reserved
	p := netip.MustParsePrefix("172.18.0.0/16")
	if err := r.Add(p, netip.Prefix{}); err == nil || r.Contains(p.Addr()) {
		t.Errorf("an invalid prefix: %v, and its neighbour was reserved: %v", err, r.Contains(p.Addr()))
	}
	if err := r.Add(p, p); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(p, netip.MustParsePrefix("10.0.0.0/8")); err == nil {
		t.Error("what was never reserved was released")
	}
	for i, want := range []bool{true, false} {
		if err := r.Remove(netip.MustParsePrefix("172.18.3.4/16")); err != nil {
			t.Fatal(err)
		}
		if got := r.Contains(netip.MustParseAddr("172.18.9.9")); got != want {
			t.Errorf("after %d releases of 2: %v", i+1, got)
		}
	}
	if err := r.Remove(p); err == nil {
		t.Error("released once too often")
	}
}

// HC-12: a container of A sends nothing to an address of B, by any protocol or spelling, and everything again when B is gone.
func TestHC12PolicyReserved(t *testing.T) {
	var r Reserved
	b4, b6 := netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00:b::/64")
	p := mustPolicy(t, privateNetwork(), &r)
	addrs := []string{"172.18.0.1", "172.18.0.2", "172.18.255.255", "fd00:b::1", "fd00:b::2", "64:ff9b::172.18.0.2", "2002:ac12:2::1"}
	for _, reserved := range []bool{false, true, false} {
		switch {
		case reserved:
			if err := r.Add(b4, b6); err != nil {
				t.Fatal(err)
			}
		case r.Contains(b4.Addr()):
			if err := r.Remove(b4, b6); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range addrs {
			a := netip.MustParseAddr(s)
			for _, proto := range protocolsOf(a) {
				if got := p.Check(proto, netip.AddrPortFrom(a, 80)).Allow; got == reserved {
					t.Errorf("reserved %v, protocol %d to %s: allowed %v", reserved, proto, s, got)
				}
			}
		}
	}
}

func BenchmarkPolicyReserved(b *testing.B) {
	var r Reserved
	for i := range 2000 {
		if err := r.Add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 4), byte(i << 4), 0}), 28)); err != nil {
			b.Fatal(err)
		}
	}
	p := mustPolicy(b, privateNetwork(), &r)
	dst := netip.MustParseAddrPort("8.8.8.8:53")
	for b.Loop() {
		if !p.Check(ip.UDP, dst).Allow {
			b.Fatal("refused")
		}
	}
}

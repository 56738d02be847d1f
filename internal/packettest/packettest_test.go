package packettest

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

var a, b = NewStation(100), NewStation(101)

// The kit checks others, so its own figures come from elsewhere: the RFCs and ARP's layout written out.
func TestBuildersMatchStandards(t *testing.T) {
	echo := Echo(netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("10.0.2.2"), 0x0102, 1, []byte("ab"))
	if got := sum(0, echo[:20]); got != 0xffff {
		t.Errorf("IPv4 header sums up to %#x", got)
	}
	// RFC 1071 §3 sums these bytes to 0xddf2.
	if got := sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != 0xddf2 {
		t.Errorf("sum = %#x, want 0xddf2", got)
	}
	if got, want := GroupMAC(SolicitedNode(b.IP6)).String(), "33:33:ff:00:00:65"; got != want {
		t.Errorf("solicited-node MAC of %v = %s, want %s", b.IP6, got, want)
	}
	if got, want := LinkLocal(a.MAC).String(), "fe80::42:ff:fe00:64"; got != want {
		t.Errorf("link-local address of %v = %s, want %s", a.MAC, got, want)
	}
	arp := Bytes(ARP(ARPRequest, a.MAC, a.IP4, l2.MAC{}, b.IP4))
	want := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0, 0, 0, 100, 0x08, 0x06,
		0, 1, 8, 0, 6, 4, 0, 1, 0x02, 0x42, 0, 0, 0, 100, 10, 0, 2, 100, 0, 0, 0, 0, 0, 0, 10, 0, 2, 101,
	}
	if !bytes.Equal(arp, want) {
		t.Errorf("ARP request = % x, want % x", arp, want)
	}
}

func TestDecodeWhatWasBuilt(t *testing.T) {
	pay := []byte("payload")
	for _, pair := range [][2]netip.Addr{{a.IP4, b.IP4}, {a.IP6, b.IP6}} {
		src, dst := netip.AddrPortFrom(pair[0], 1000), netip.AddrPortFrom(pair[1], 2000)
		for _, p := range [][]byte{UDP(src, dst, pay), TCP(src, dst, SYN|ACK, 1, 2, pay), Echo(src.Addr(), dst.Addr(), 1, 2, pay)} {
			f := Frame(a.MAC, b.MAC, p)
			d, err := Decode(f)
			if err != nil || !d.ChecksumOK || d.Src.Addr() != pair[0] || d.Dst.Addr() != pair[1] || string(d.Payload) != "payload" {
				t.Errorf("Decode = %+v, %v of\n%s", d, err, Dump(f))
			}
			f.L3[0][len(p)-1] ^= 1
			if d, _ := Decode(f); d.ChecksumOK {
				t.Errorf("checksum holds after a change of\n%s", Dump(f))
			}
		}
	}
	for _, f := range []l2.Frame{
		NS(a.MAC, a.IP6, b.IP6), NA(a.MAC, a.IP6), RS(a.MAC, LinkLocal(a.MAC)), DHCPDiscover(a.MAC, 7),
		RA(a.MAC, LinkLocal(a.MAC), netip.MustParsePrefix("fd00::/64")), Redirect6(a.MAC, b.MAC, a.IP6, b.IP6, a.IP6, b.IP6),
	} {
		if d, err := Decode(f); err != nil || !d.ChecksumOK {
			t.Errorf("Decode: %v, checksum %v, of\n%s", err, d.ChecksumOK, Dump(f))
		}
	}
}

func TestPortRecordsCopies(t *testing.T) {
	p := &Port{Name: "p", Limit: 2}
	f := Frame(a.MAC, b.MAC, Echo(a.IP4, b.IP4, 1, 1, nil))
	if n := p.Output([]l2.Frame{f, f, f}); n != 2 {
		t.Fatalf("Output = %d, want 2: the port is full then", n)
	}
	if n := p.Output([]l2.Frame{f}); n != 0 {
		t.Fatalf("Output of a full port = %d, want 0", n)
	}
	f.L3[0][0] = 0
	if got := p.Frames(); len(got) != 2 || got[0].L3[0][0] != 0x45 {
		t.Fatal("the port kept the caller's memory")
	}
	if p.Clear(); len(p.Frames()) != 0 {
		t.Fatal("frames left after Clear")
	}
}

// Every check must be able to fail.
func TestChecksFail(t *testing.T) {
	p := &Port{Name: "p"}
	r := &Result{Ports: []*Port{p}, Drops: new(drop.Counters)}
	f := Frame(a.MAC, b.MAC, Echo(a.IP4, b.IP4, 1, 1, []byte("x")))
	good := All(Silent(), NoneOn("p"), NoDrops(), Dropped(drop.SrcGroup, 0))
	if err := good(r); err != nil {
		t.Fatal(err)
	}
	p.Output([]l2.Frame{f})
	r.Drops.Add(drop.SrcGroup)
	for name, c := range map[string]Check{
		"silent": Silent(), "none": NoneOn("p"), "no drops": NoDrops(), "dropped": Dropped(drop.SrcGroup, 0),
		"only dropped": OnlyDropped(drop.VNetBad, 0), "no such port": OutOn("q", 0), "count": OutOn("p", 2),
		"src": OutOn("p", 1, SrcMAC(b.MAC)), "dst": OutOn("p", 1, DstMAC(a.MAC)), "type": OutOn("p", 1, EtherType(l2.TypeARP)),
		"payload": OutOn("p", 1, Payload([]byte("y"))), "same": OutOn("p", 1, Same(Frame(b.MAC, a.MAC, f.L3[0]))),
	} {
		if c(r) == nil {
			t.Errorf("check %q holds", name)
		}
	}
	if err := OutOn("p", 1, Same(f), SrcMAC(a.MAC), DstMAC(b.MAC), Payload([]byte("x")), EtherType(l2.TypeIPv4))(r); err != nil {
		t.Error(err)
	}
	if s := r.String(); !strings.Contains(s, "ICMP 10.0.2.100 > 10.0.2.101 type 8") || !strings.Contains(s, "src-group:1") {
		t.Errorf("report does not tell what happened:\n%s", s)
	}
}

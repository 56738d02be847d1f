package dnsproxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/usernet/usernet/stack/spec"
)

// slowNames is the obvious zone: a list of Endpoints.
type slowNames map[string]spec.Endpoint

func (s slowNames) lookup(name, network string) (addrs []string) {
	for _, ep := range s {
		for _, n := range ep.Names {
			if strings.EqualFold(n, name) || strings.EqualFold(n+"."+network, name) {
				for _, a := range ep.Addrs {
					addrs = append(addrs, a.String())
				}
				break
			}
		}
	}
	slices.Sort(addrs)
	return addrs
}

// Endpoints that come, change and go, against the list; the Directory's count of names with them.
func TestDN18ZoneModel(t *testing.T) {
	const network = "lan.example"
	name := rapid.SampledFrom([]string{"a", "B", "b", "c.d", "web", "a.lan"})
	rapid.Check(t, func(t *rapid.T) {
		dir := NewDirectory(nil, 0)
		z := newZone(spec.Network{ID: "n", Name: network}, dir, slog.New(slog.DiscardHandler))
		dir.add(z)
		slow := slowNames{}
		addr := netip.MustParseAddr("10.0.0.1")
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				ep := spec.Endpoint{ID: fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "id")), Names: rapid.SliceOfN(name, 0, 4).Draw(t, "names")}
				for range rapid.IntRange(0, 2).Draw(t, "addrs") {
					ep.Addrs = append(ep.Addrs, addr)
					addr = addr.Next()
				}
				z.set(&ep)
				slow[ep.ID] = ep
			},
			"remove": func(t *rapid.T) {
				id := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "id"))
				z.remove(id)
				delete(slow, id)
			},
			"": func(t *rapid.T) {
				for _, n := range []string{"a", "b", "c.d", "web", "a.lan", "b.lan.example", "c.d.LAN.example", "x", "lan.example", "example"} {
					wire, _ := wireName(n)
					addrs, known := z.lookup(wire)
					var got []string
					for _, a := range addrs {
						got = append(got, a.String())
					}
					slices.Sort(got)
					want := slow.lookup(n, network)
					if !slices.Equal(got, want) || len(want) > 0 && !known {
						t.Fatalf("%s: %v, known %v; want %v", n, got, known, want)
					}
					if labels(wire) == 1 && dir.taken(wire) != known {
						t.Fatalf("%s: taken %v, known %v", n, dir.taken(wire), known)
					}
				}
				for _, ep := range slow {
					for _, a := range ep.Addrs {
						got := strings.Join(z.reverse(a), " ")
						want := ""
						if len(ep.Names) > 0 {
							want = ep.Names[0] + "." + network + "."
						}
						if got != want {
							t.Fatalf("%v is %q, want %q", a, got, want)
						}
					}
				}
			},
		})
		dir.remove(z)
		if len(dir.names)+len(dir.zones)+len(dir.bySuffix) != 0 {
			t.Fatalf("the directory keeps %v, %v, %v of what is gone", dir.names, dir.zones, dir.bySuffix)
		}
	})
}

// What cannot be a domain name is left out, and the rest of the Endpoint's names is there.
func TestBadNames(t *testing.T) {
	l := newLAN(t, "net")
	l.endpoint("net", "10.1.0.2", spec.Resolver{Links: map[string][]string{
		"..": {"ok"}, "lnk": {strings.Repeat("y", 64), "ok"},
	}}, strings.Repeat("x", 64), "", ".", "ok")
	for name, want := range map[string]string{"ok": "NOERROR A 10.1.0.2", "lnk": "NOERROR A 10.1.0.2"} {
		if got := l.ask("net", "10.1.0.2", name, dns.TypeA); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// The first name says what the address is called; that one cannot be.
	if got := l.ask("net", "10.1.0.2", reverse("10.1.0.2"), dns.TypePTR); got != "NXDOMAIN" {
		t.Errorf("reverse: %q", got)
	}
}

// An alias of more Endpoints than a message holds is told in part, not refused.
func TestManyAddresses(t *testing.T) {
	l := newLAN(t, "net")
	a := netip.MustParseAddr("fd00::1")
	for i := range 3000 {
		l.networks["net"].SetEndpoint(spec.Endpoint{ID: fmt.Sprint(i), Addrs: []netip.Addr{a}, Names: []string{"all"}})
		a = a.Next()
	}
	q := pack(question("all", dns.TypeAAAA))
	var got []byte
	l.networks["net"].handle(q, netip.MustParseAddr("10.1.0.2"), tcpTransport, func(b []byte, sent func()) { got = b; sent() })
	var r dns.Msg
	if err := r.Unpack(got); err != nil || len(r.Answer) != maxRecords {
		t.Errorf("%d answers in %d bytes, %v; want %d", len(r.Answer), len(got), err, maxRecords)
	}
}

package shim

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func TestParseResolv(t *testing.T) {
	tests := []struct {
		name, in string
		want     Resolv
	}{
		{"empty", "", Resolv{}},
		{"plain", "nameserver 10.0.0.1\nsearch a b\noptions ndots:2 edns0\n",
			Resolv{addrs("10.0.0.1"), []string{"a", "b"}, []string{"ndots:2", "edns0"}}},
		{"zone, tabs, comments", "# nameserver 1.1.1.1\n; x\n\tnameserver\tfe80::1%eth0\nnameserver bogus\nnameserver\n",
			Resolv{Nameservers: addrs("fe80::1%eth0")}},
		{"last of search and domain", "search a b\ndomain c d\n", Resolv{Search: []string{"c"}}},
		{"options add up, CRLF", "options a\r\noptions b\r\n", Resolv{Options: []string{"a", "b"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseResolv(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestResolvString(t *testing.T) {
	rc := Resolv{addrs("10.0.2.3", "fd00::3", "127.0.0.53", "::1"), []string{"a", "b"}, []string{"edns0"}}.WithoutLoopback()
	want := "# Made by usernet for this sandbox.\nnameserver 10.0.2.3\nnameserver fd00::3\nsearch a b\noptions edns0\n"
	if got := rc.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHostsFile(t *testing.T) {
	got := HostsFile([]Host{
		{netip.MustParseAddr("10.0.2.100"), []string{"box", "web"}},
		{netip.Addr{}, []string{"nowhere"}},
		{netip.MustParseAddr("fd00::100"), nil},
	})
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n::1\tlocalhost ") {
		t.Errorf("no localhost lines first:\n%s", got)
	}
	if !strings.HasSuffix(got, "ip6-allrouters\n10.0.2.100\tbox web\n") {
		t.Errorf("lines are not as given:\n%s", got)
	}
}

// FuzzParseResolv: whatever the host's file says, ours has only what was understood, and reads back.
func FuzzParseResolv(f *testing.F) {
	f.Add("nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n")
	f.Add("nameserver fe80::1%eth0\ndomain x\x00y\n")
	f.Fuzz(func(t *testing.T, in string) {
		rc, err := ParseResolv(strings.NewReader(in))
		if err != nil {
			return
		}
		again, err := ParseResolv(strings.NewReader(rc.String()))
		if err != nil {
			return // a line over the scanner's limit, joined from shorter ones
		}
		if d := cmp.Diff(rc, again, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("read back -want +got:\n%s", d)
		}
	})
}

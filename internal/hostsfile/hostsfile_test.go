package hostsfile

import (
	"net/netip"
	"testing"
)

func TestFormat(t *testing.T) {
	got := Format([]Line{
		{Addr: netip.MustParseAddr("172.18.0.2"), Names: []string{"c1.example", "c1"}},
		{Addr: netip.MustParseAddr("fd00::2"), Names: []string{"c1"}},
		{Names: []string{"nowhere"}},
		{Addr: netip.MustParseAddr("192.0.2.1")},
	})
	want := static + "172.18.0.2\tc1.example c1\nfd00::2\tc1\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

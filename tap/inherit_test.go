package tap_test

import (
	"os"
	"strings"
	"testing"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap"
)

// A TAP that somebody else opened, with the header or without it.
func TestInherit(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	for name, flags := range map[string]uint16{"plain0": 0, "vnet0": sys.TunVNetHeader} {
		fd, err := sys.OpenTun()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sys.TunAttach(fd, name, flags); err != nil {
			t.Fatal(err)
		}
		f, info, err := tap.Inherit(fd, 9000)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if vnet := flags != 0; info.Name != name || info.MTU != 9000 || info.VNet != vnet || info.MAC.IsZero() || (info.Offloads != 0) != vnet {
			t.Errorf("%s: %+v", name, info)
		}
		d, err := tap.Open(f, info, tap.Options{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInheritRefused(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, fd := range []int{int(f.Fd()), 1 << 20} {
		if _, _, err := tap.Inherit(fd, 1500); err == nil || !strings.Contains(err.Error(), "/dev/net/tun") {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
}

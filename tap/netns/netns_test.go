package netns

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/stack/l2"
)

// LU-20: whatever a caller names as a namespace is refused by name, at once and untouched.
func TestOpenHostilePaths(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:                         "it is not one",
		file:                         "it is not one",
		dir:                          "it is not one",
		"/dev/zero":                  "it is not one",
		"/proc/self/ns/uts":          "it is not one",
		"/proc/self/ns/net":          "the one this process is in",
		filepath.Join(dir, "absent"): "has the process ended?",
	} {
		f, err := Open(path)
		if err == nil {
			f.Close()
			t.Errorf("Open(%s): no error", path)
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): %v, want %q", path, err, want)
		}
	}
}

func TestGroupRange(t *testing.T) {
	for _, c := range []struct {
		gidMap    string
		low, high uint64
		ok        bool
	}{
		{"", 0, 0, false},
		{"garbage\n", 0, 0, false},
		{"         0       1000          1\n", 0, 0, true},
		{"0 1000 1\n1 100000 65536\n", 0, 65536, true},
		{"0 100000 1000\n1000 1000 1\n1001 101000 64536\n", 1000, 65536, true},
		{"0 100000 65536\n65536 1000 1\n", 0, 65535, true}, // ends in the wrong order: the longest extent
		{"1000 1000 1\n", 1000, 1000, true},
		{"0 0 4294967295\n", 0, 1<<31 - 1, true},
	} {
		low, high, ok := groupRange([]byte(c.gidMap))
		if low != c.low || high != c.high || ok != c.ok {
			t.Errorf("%q: %d %d %v, want %d %d %v", c.gidMap, low, high, ok, c.low, c.high, c.ok)
		}
	}
}

func TestConfigureRefuses(t *testing.T) {
	p := netip.MustParsePrefix
	for want, l := range map[string]plumb.Link{
		"configure eth0: address fd00::1/64 is of the other family":                                     {Addr4: p("fd00::1/64")},
		"configure eth0: address 10.0.2.1/24 is not link-local; use one of 169.254.0.0/16 or fe80::/64": {LinkLocal: []netip.Prefix{p("10.0.2.1/24")}},
		"find interface absent0: Link not found":                                                        {Name: "absent0", MAC: l2.MAC{2}},
	} {
		if l.Name == "" {
			l.Name = "eth0"
		}
		if err := (Namespace{}).Plug(l); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// FuzzSysctlPath: whatever a setting is called, only those of a network namespace are written.
func FuzzSysctlPath(f *testing.F) {
	for _, s := range []string{"net.ipv4.conf.eth0.log_martians", "net/ipv4/conf/eth0.1/forwarding", "net..x", "net./../kernel/core_pattern",
		"kernel.core_pattern", "net", "", "net.ipv4/../../kernel", "net/ipv4/../../kernel/core_pattern"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := sysctlPath(name)
		if err == nil && (filepath.Clean(path) != path || !strings.HasPrefix(path, "/proc/sys/net/")) {
			t.Errorf("%q leads to %q", name, path)
		}
	})
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.conf.eth0.log_martians": "/proc/sys/net/ipv4/conf/eth0/log_martians",
		"net.ipv4.conf.eth0/5.forwarding": "/proc/sys/net/ipv4/conf/eth0.5/forwarding",
		"net/ipv4/conf/eth0.5/forwarding": "/proc/sys/net/ipv4/conf/eth0.5/forwarding",
		"kernel.core_pattern":             "", "net": "", "": "", "net.": "", "network.x": "", "net/../kernel/core_pattern": "",
		"net.//.kernel": "",
	} {
		if got, err := sysctlPath(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

// TestUnpaced: a congestion control that paces is replaced, and no other.
func TestUnpaced(t *testing.T) {
	for was, want := range map[string]string{"bbr\n": "cubic", "bbr3": "cubic", "cubic\n": "cubic\n", "reno\n": "reno\n", "dctcp\n": "dctcp\n"} {
		path := filepath.Join(t.TempDir(), "tcp_congestion_control")
		if err := os.WriteFile(path, []byte(was), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unpaced(path); err != nil {
			t.Errorf("unpaced, %q: %v", was, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("unpaced made %q of %q (%v), want %q", got, was, err, want)
		}
	}
	if err := unpaced(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("unpaced says nothing of a setting that is not there")
	}
}

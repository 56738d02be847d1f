package rootlesstests

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// DN-12: a resolv.conf that names ourselves is no loop: SERVFAIL within a second, and nothing of it on the wire.
func TestDN12(t *testing.T) {
	r := rig.Start(t)
	for _, own := range []string{"10.0.2.3", "10.0.2.2", "fd00::3", "127.0.0.11", "10.0.2.3\nnameserver 127.0.0.11\nnameserver 10.0.2.2"} {
		t.Run(strings.Fields(own)[0], func(t *testing.T) {
			writeResolvConf(t, "nameserver "+own+"\n")
			sb := r.Run(t)
			wire := r.R.Capture(t, rig.DevToH, func(d packettest.Decoded) bool {
				return d.Proto == packettest.ProtoUDP && d.Dst.Port() == 53
			})
			began := time.Now()
			if got := resolve(t, sb, unique()); got != "SERVFAIL" {
				t.Errorf("answer %q, want SERVFAIL", got)
			}
			if d := time.Since(began); d > busy*time.Second {
				t.Errorf("answer after %v, want at most 1 s", d)
			}
			// A packet that does come marks the end of those that may have.
			c := r.H.DialUDP(t, at(rig.X1v4, 53))
			if _, err := c.Write([]byte("mark")); err != nil {
				t.Fatal(err)
			}
			rig.WaitFor(t, rig.Patience, "mark on the wire", func() bool { return len(wire.Seen()) > 0 })
			if n := len(wire.Seen()) - 1; n > 2 {
				t.Errorf("%d copies of the query on the wire, want at most 2", n)
			}
			// The file is read again when it changes.
			serveDNS(t, r.X1, at(rig.X1v4, 53), nil)
			writeResolvConf(t, "nameserver "+rig.X1v4.String()+"\n")
			rig.WaitFor(t, time.Second, "the right server in force", func() bool {
				return resolve(t, sb, unique()) == rig.X1v4.String()
			})
		})
	}
}

// linkLocal is the link-local address of a device of a node.
func linkLocal(t *testing.T, n *rig.Node, dev string) netip.Addr {
	t.Helper()
	for line := range strings.Lines(n.Run(t, "ip", "-o", "-6", "address", "show", "dev", dev, "scope", "link")) {
		f := strings.Fields(line)
		if len(f) > 3 {
			return netip.MustParsePrefix(f[3]).Addr()
		}
	}
	t.Fatalf("%s has no link-local address in %s", dev, n.Name)
	return netip.Addr{}
}

// DN-17: whatever happens to H's resolv.conf is in force within a second, without a restart.
func TestDN17(t *testing.T) {
	r := rig.Start(t)
	keepResolvConf(t)
	for _, where := range []struct {
		n *rig.Node
		a netip.Addr
	}{{r.X1, rig.X1v4}, {r.X2, rig.X2v4}, {r.X1, rig.X1v6}} {
		serveDNS(t, where.n, at(where.a, 53), nil)
	}
	r.R.SetSysctl(t, "net.ipv4.ip_unprivileged_port_start", "53")
	serveDNS(t, r.R, at(netip.IPv6Unspecified(), 53), func(reply *dns.Msg, _ bool) { answerWith(reply, rig.R6) })
	sb := r.Run(t)
	datapath := sb.Datapath(t)

	in := func(text string) {
		if err := os.WriteFile(rig.ResolvConf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	over := func(text string) {
		next := rig.ResolvConf + ".next"
		if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, rig.ResolvConf); err != nil {
			t.Fatal(err)
		}
	}
	remove := func() {
		if err := os.Remove(rig.ResolvConf); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "stub-resolv.conf")
	link := func(text string) {
		if err := os.WriteFile(elsewhere, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, rig.ResolvConf); err != nil {
			t.Fatal(err)
		}
	}
	hundred := func(first string) string {
		text := "nameserver " + first + "\n"
		for i := range 99 {
			text += fmt.Sprintf("nameserver 192.0.2.%d\n", i)
		}
		return text
	}
	x1, x2 := "nameserver 198.51.100.10\n", "nameserver 198.51.100.20\n"
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"write", func() { in(x1) }, rig.X1v4.String()},
		{"rename over", func() { over(x2) }, rig.X2v4.String()},
		{"truncate and write", func() { in(x1) }, rig.X1v4.String()},
		{"empty", func() { in("") }, "SERVFAIL"},
		{"comments", func() {
			in("# nameserver 198.51.100.10\n; x\n\tnameserver 198.51.100.10\nnameserver 198.51.100.20 # two\n")
		}, rig.X2v4.String()},
		{"missing", remove, "SERVFAIL"},
		{"back", func() { in(x1) }, rig.X1v4.String()},
		{"hundred", func() { over(hundred("198.51.100.20")) }, rig.X2v4.String()},
		{"IPv6", func() { over("nameserver fd02::10\n") }, rig.X1v6.String()},
		{"link-local with a zone", func() { over("nameserver " + linkLocal(t, r.R, rig.DevToH).String() + "%eth0\n") }, rig.R6.String()},
		{"rubbish", func() { over("\x00\xff nameserver\nnameserver\nnameserver x\nnameserver 198.51.100.10") }, rig.X1v4.String()},
		{"gone", remove, "SERVFAIL"},
		{"symbolic link", func() { link(x2) }, rig.X2v4.String()},
		{"behind the link", func() {
			if err := os.WriteFile(elsewhere, []byte(x1), 0o644); err != nil {
				t.Fatal(err)
			}
		}, rig.X1v4.String()},
	} {
		step.do()
		if !rig.Eventually(t, time.Second, func() bool { return resolve(t, sb, unique()) == step.want }) {
			t.Errorf("%s: after a second the answer is %q, want %q", step.name, resolve(t, sb, unique()), step.want)
		}
	}
	wantAlive(t, r, sb, datapath)
}

// Of the servers in resolv.conf the first three are used, as the C library does. Where nobody listens is known
// at once.
func TestDN17FirstThree(t *testing.T) {
	r := rig.Start(t)
	fourth := serveDNS(t, r.X1, at(rig.X1v6, 53), nil)
	writeResolvConf(t, "nameserver 198.51.100.10\nnameserver 203.0.113.254\nnameserver 198.51.100.20\nnameserver fd02::10\n")
	sb := r.Run(t)
	if got := resolve(t, sb, unique()); got != "SERVFAIL" {
		t.Errorf("with nobody at the first three: %s, want SERVFAIL", got)
	}
	if q := fourth.queries(); len(q) > 0 {
		t.Errorf("the fourth server was asked %d times", len(q))
	}
	serveDNS(t, r.X2, at(rig.X2v4, 53), nil)
	if got := resolve(t, sb, unique()); got != rig.X2v4.String() {
		t.Errorf("with the third server there: %s", got)
	}
}

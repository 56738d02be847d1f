package rootlesstests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// Theory of operation
//
// The tests of compatibility give the same command line to the program that it was written for and to usernet in its
// place, and ask the same questions of both: which addresses there are inside, who is reached and with which source,
// what the name server says. The answers are words, and have to be the same. Where they are not, on purpose, the
// table of the test says which are ours and why; a difference that is gone fails as well.

// maker says whose program stands at a name.
type maker string

const (
	original maker = "original"
	ours     maker = "ours"
)

var makers = []maker{original, ours}

// answers are what was found out, by question.
type answers map[string]string

// askBoth asks about both programs at once. Each has podmans, containers and ports of its own, and much of what is asked
// is waited for: pings, silence, IPv6.
func askBoth(t *testing.T, ask func(t *testing.T, m maker) answers) (originals, own answers) {
	t.Helper()
	var got [2]answers
	asked := t.Run("both", func(t *testing.T) {
		for i, m := range makers {
			t.Run(string(m), func(t *testing.T) {
				t.Parallel()
				got[i] = ask(t, m)
			})
		}
	})
	if !asked {
		t.FailNow() // there is nothing to compare
	}
	return got[0], got[1]
}

// difference is one that is meant.
type difference struct{ ours, because string }

// wantSame compares what the original and ours answered.
func wantSame(t testing.TB, originals, own answers, meant map[string]difference) {
	t.Helper()
	for q, d := range meant {
		if _, asked := own[q]; !asked {
			t.Errorf("%s: a difference is meant (%s), but that was not asked", q, d.because)
		}
	}
	for _, q := range slices.Sorted(maps.Keys(originals)) {
		switch d, different := meant[q]; {
		case different && own[q] != d.ours:
			t.Errorf("%s: ours says %q, want %q: %s", q, own[q], d.ours, d.because)
		case different && originals[q] == d.ours:
			t.Errorf("%s: both say %q, but a difference is meant: %s", q, own[q], d.because)
		case !different && own[q] != originals[q]:
			t.Errorf("%s: ours says %q, the original %q", q, own[q], originals[q])
		}
	}
	if len(own) != len(originals) {
		t.Errorf("ours was asked %d questions, the original %d", len(own), len(originals))
	}
}

// link is a network interface as `ip -j address` tells of it.
type link struct {
	Name  string `json:"ifname"`
	MTU   int    `json:"mtu"`
	State string `json:"operstate"`
	MAC   string `json:"address"`
	Addrs []struct {
		Family    string     `json:"family"`
		Local     netip.Addr `json:"local"`
		Bits      int        `json:"prefixlen"`
		Tentative bool       `json:"tentative"`
	} `json:"addr_info"`
}

// links are those inside a node.
func links(t testing.TB, n *rig.Node) (all []link) {
	t.Helper()
	if err := json.Unmarshal([]byte(n.Run(t, "ip", "-j", "address")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// askLinks answers what is configured inside: interfaces, addresses, routes. It waits until an IPv6 address is
// there that comes by router advertisement.
func (a answers) askLinks(t testing.TB, n *rig.Node, wantIPv6 bool) {
	t.Helper()
	var all []link
	rig.WaitFor(t, rig.Patience, "addresses inside", func() bool {
		all = links(t, n)
		global6 := false
		for _, l := range all {
			for _, i := range l.Addrs {
				if i.Tentative {
					return false
				}
				global6 = global6 || l.Name != "lo" && i.Family == "inet6" && !i.Local.IsLinkLocalUnicast()
			}
		}
		return global6 == wantIPv6
	})
	for _, l := range all {
		var words []string
		for _, i := range l.Addrs {
			words = append(words, netip.PrefixFrom(withoutInterfaceID(i.Local), i.Bits).String())
		}
		slices.Sort(words)
		a["link "+l.Name] = fmt.Sprintf("mtu %d %s", l.MTU, strings.Join(words, " "))
	}
	for _, v := range []string{"-4", "-6"} {
		a["routes "+v] = routes(t, n, v)
	}
}

// withoutInterfaceID is an address whose lower half is zero when it was made from a MAC or drawn: both differ from
// one run to the next.
func withoutInterfaceID(ip netip.Addr) netip.Addr {
	b := ip.As16()
	if ip.Is6() && (b[11] == 0xff && b[12] == 0xfe || ip.IsLinkLocalUnicast()) {
		clear(b[8:])
		return netip.AddrFrom16(b)
	}
	return ip
}

// routes are those that a packet to elsewhere takes.
func routes(t testing.TB, n *rig.Node, version string) string {
	t.Helper()
	b := n.Run(t, "ip", "-j", version, "route")
	if strings.TrimSpace(b) == "" {
		return ""
	}
	var raw []struct {
		To  string `json:"dst"`
		Via string `json:"gateway"`
		Dev string `json:"dev"`
	}
	if err := json.Unmarshal([]byte(b), &raw); err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, r := range raw {
		word := r.To + " dev " + r.Dev
		if r.Via != "" {
			word = r.To + " via " + r.Via + " dev " + r.Dev
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// askWhoami asks a server, which says whom it saw, and gives the answer or why there is none.
func askWhoami(t testing.TB, n *rig.Node, network string, to netip.AddrPort) string {
	t.Helper()
	// The first datagrams of a flow may be lost where a helper starts it.
	for range 4 {
		c, err := n.Dial(rig.Within(t, rig.Patience), network, to)
		if err != nil {
			return whyNot(err)
		}
		word, err := readWhoami(c, rig.Patience/4)
		c.Close()
		if err == nil {
			return word
		}
		if network == "tcp" || !errors.Is(err, os.ErrDeadlineExceeded) {
			return whyNot(err)
		}
	}
	return "no answer"
}

func readWhoami(c net.Conn, limit time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "who am I?"); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	return "seen as " + string(buf[:n]), nil
}

// whyNot is an error in a word.
func whyNot(err error) string {
	var no syscall.Errno
	switch {
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, io.EOF):
		return "closed"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	}
	return err.Error()
}

// serveWhoami serves on both transports of one port, which may be 0, and tells each client the address that it
// comes from.
func serveWhoami(t testing.TB, n *rig.Node, where netip.AddrPort) netip.AddrPort {
	t.Helper()
	l := n.ListenTCP(t, where)
	where = addrOf(t, l.Addr())
	accept(t, l, func(c *net.TCPConn) {
		// Who asks is answered; who only connects is a proxy that probes.
		if _, err := c.Read(make([]byte, 64)); err == nil {
			_, _ = io.WriteString(c, addrOf(t, c.RemoteAddr()).Addr().String()) // the client sees what goes wrong
		}
	})
	listenUDP(t, n, where, func(d datagram) []byte { return []byte(d.from.Addr().String()) })
	return where
}

// askPing answers whether an address answers to ping.
func askPing(t testing.TB, n *rig.Node, to netip.Addr) string {
	t.Helper()
	_, code, err := n.Exec(rig.Within(t, rig.Patience), "", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", to.String())
	switch {
	case err != nil:
		t.Fatal(err)
	case code == 0:
		return "answers"
	}
	return "exit code " + strconv.Itoa(code)
}

// askName asks a name server for the address of a name.
func askName(t testing.TB, n *rig.Node, server netip.Addr, name string) string {
	t.Helper()
	var err error
	for range 3 { // a datagram may be lost
		var a *dns.Msg
		if a, err = ask(rig.Within(t, rig.Patience/4), n, "udp", at(server, 53), question(name)); err == nil {
			return firstAddress(a)
		}
	}
	return whyNot(err)
}

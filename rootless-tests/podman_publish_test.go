package rootlesstests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// mapping is a value of podman's --publish without its host port, and the port it starts at.
type mapping struct {
	name         string
	ip           netip.Addr // of the host; zero: every one
	network      string
	host, inside uint16
	count        uint16
}

// value is what --publish takes.
func (m *mapping) value() string {
	host, inside := fmt.Sprint(m.host), fmt.Sprint(m.inside)
	if m.count > 1 {
		host, inside = fmt.Sprintf("%d-%d", m.host, m.host+m.count-1), fmt.Sprintf("%d-%d", m.inside, m.inside+m.count-1)
	}
	v := host + ":" + inside + "/" + m.network
	switch {
	case m.ip.Is4():
		v = m.ip.String() + ":" + v
	case m.ip.Is6():
		v = "[" + m.ip.String() + "]:" + v
	}
	return v
}

// mappings are those of every container of these tests: TCP and UDP, each single, translated, as a range, a translated
// range, and bound to an address of each family.
func mappings(ipv6 bool) (all []mapping) {
	for _, network := range []string{"tcp", "udp"} {
		for _, m := range []mapping{
			{name: "single", count: 1},
			{name: "translated", inside: 8080, count: 1},
			{name: "range", count: 3},
			{name: "translated range", inside: 8100, count: 3},
			{name: "address IPv4", ip: rig.H24, inside: 8200, count: 1},
			{name: "loopback IPv4", ip: netip.AddrFrom4([4]byte{127, 0, 0, 1}), inside: 8300, count: 1},
			{name: "loopback IPv6", ip: netip.IPv6Loopback(), inside: 8400, count: 1},
		} {
			if m.ip.Is6() && !ipv6 {
				continue
			}
			m.network = network
			m.host = uint16(20000+lastPort.Add(uint32(m.count))) - m.count + 1
			if m.inside == 0 {
				m.inside = m.host
			}
			all = append(all, m)
		}
	}
	return all
}

// serveMappings serves each mapping's ports inside a container.
func serveMappings(t *testing.T, c *podContainer, all []mapping) {
	t.Helper()
	served := map[uint16]bool{}
	for _, m := range all {
		for port := m.inside; port < m.inside+m.count; port++ {
			if served[port] {
				continue
			}
			served[port] = true
			for _, f := range families {
				serveWhoami(t, c.Node, at(f.any, port))
			}
		}
	}
}

// askPublished asks at each published port, from an internet host and from the host's loopback. Where the network of
// the original has no IPv6, and loses datagrams from loopback, that is not asked.
func askPublished(t *testing.T, r *rig.Rig, all []mapping, full bool, a answers) {
	t.Helper()
	for _, m := range all {
		for _, f := range families {
			for _, from := range []struct {
				name string
				node *rig.Node
				to   netip.Addr
			}{{"internet", r.X1, f.host}, {"loopback", r.H, f.loopback}} {
				to := from.to
				switch {
				case !full && (f.any.Is6() || m.network == "udp" && from.name == "loopback"):
					continue
				case !m.ip.IsValid():
				case m.ip.Is4() != f.any.Is4(), m.ip.IsLoopback() != (from.name == "loopback"):
					continue
				default:
					to = m.ip
				}
				var words []string
				for port := m.host; port < m.host+m.count; port++ {
					words = append(words, askWhoami(t, from.node, m.network, at(to, port)))
				}
				a[fmt.Sprintf("%s %s from %s %s", m.network, m.name, from.name, f.name)] = strings.Join(slices.Compact(words), ", ")
			}
		}
	}
}

// Ports published in each way, reached in each way, and whom the container sees. The matrix is that of podman's own
// tests of pasta (505-networking-pasta.bats).
func TestPodmanPublish(t *testing.T) {
	w := newWorld(t, podman4, podman5)
	for _, k := range []struct {
		version version
		network string
		full    bool // IPv6, and datagrams from loopback
		differ  map[string]difference
	}{
		{podman4, "slirp4netns:port_handler=slirp4netns", false, nil},
		{podman5, "pasta", true, pastaPublishDiffers()},
	} {
		t.Run(fmt.Sprint(k.version, " ", k.network), func(t *testing.T) {
			originals, own := askBoth(t, func(t *testing.T, m maker) answers {
				p := w.podmans[k.version][m]
				all := mappings(k.full)
				flags := []string{"--network", k.network}
				for _, m := range all {
					flags = append(flags, "--publish", m.value())
				}
				c := p.start(t, "c", flags...)
				c.wantMaker(t)
				serveMappings(t, c, all)
				a := answers{}
				askPublished(t, w.rig, all, k.full, a)
				c.Close()
				p.must(t, "rm", "--force", "--time", "0", "c")
				return a
			})
			wantSame(t, originals, own, k.differ)
		})
	}
}

// pastaPublishDiffers are datagrams from the host's loopback. The original shows the container its own address as
// the client's.
func pastaPublishDiffers() map[string]difference {
	all := map[string]difference{}
	for _, m := range mappings(true) {
		for _, f := range families {
			if m.network == "udp" && (!m.ip.IsValid() || m.ip == f.loopback) {
				all[fmt.Sprintf("%s %s from loopback %s", m.network, m.name, f.name)] = difference{"seen as " + f.router.String(),
					"the gateway stands for the host, and the container can tell it from itself"}
			}
		}
	}
	return all
}

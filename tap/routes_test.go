package tap_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// legs makes eth0 and eth1 in 10.0.N.0/24 and fd00:N::/64, the namespace's address .100, and returns their TAPs.
func legs(t *testing.T) (files [2]*os.File, links [2]plumb.Link) {
	t.Helper()
	for i := range links {
		links[i] = plumb.Link{
			Name: fmt.Sprintf("eth%d", i), MAC: l2.MAC{2, 0, 0, 0, 0, byte(i)},
			Addr4: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.100/24", i)), Addr6: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::100/64", i)),
		}
		// Without a virtio-net header, a frame is what is written.
		f, _, err := tap.CreateMode(links[i].Name, 1500, links[i].MAC, "Plain")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	if err := (netns.Namespace{Own: true}).Configure(links[:], plumb.Routes{}); err != nil {
		t.Fatal(err)
	}
	return files, links
}

// hop is the router of leg i.
func hop(i int) plumb.Hop {
	return plumb.Hop{Dev: fmt.Sprintf("eth%d", i), Addr: netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), MAC: l2.MAC{2, 9, 0, 0, 0, byte(i)}}
}

// nextFrame reads frames from a TAP until one of them is wanted, for at most a second.
func nextFrame(f *os.File, wanted func([]byte) bool) []byte {
	_ = f.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return nil
		}
		if wanted(buf[:n]) {
			return buf[:n]
		}
	}
}

// M7: what comes in on one leg never leaves by the other, not even where the host passes ip_forward on to new
// namespaces, as those of container engines do.
func TestKernelM7LegsNotBridged(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	files, links := legs(t)
	for _, f := range []string{"ipv4/conf/eth0/forwarding", "ipv4/conf/eth1/forwarding", "ipv6/conf/eth0/forwarding", "ipv6/conf/eth1/forwarding"} {
		wantSysctl(t, f, "0")
	}
	// So that only forwarding could be in the way.
	peer := &netlink.Neigh{LinkIndex: index(t, "eth1"), IP: net.IP{10, 0, 1, 7}, HardwareAddr: net.HardwareAddr{2, 7, 7, 7, 7, 7}, State: netlink.NUD_PERMANENT}
	if err := netlink.NeighSet(peer); err != nil {
		t.Fatal(err)
	}
	// A UDP datagram from 10.0.0.7 to 10.0.1.7 by the namespace, and one to the namespace itself.
	to := func(dst [4]byte) []byte {
		ip := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 7, dst[0], dst[1], dst[2], dst[3]}
		sum := uint32(0)
		for i := 0; i < len(ip); i += 2 {
			sum += uint32(ip[i])<<8 | uint32(ip[i+1])
		}
		sum = sum>>16 + sum&0xffff
		ip[10], ip[11] = byte(^sum>>8), byte(^sum)
		frame := append(links[0].MAC[:], 2, 7, 7, 7, 7, 8, 8, 0)
		return append(append(frame, ip...), 0, 9, 0, 9, 0, 12, 0, 0, 'h', 'e', 'r', 'e')
	}
	l, err := net.ListenPacket("udp4", "10.0.0.100:9")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, dst := range [][4]byte{{10, 0, 1, 7}, {10, 0, 0, 100}} {
		if _, err := files[0].Write(to(dst)); err != nil {
			t.Fatal(err)
		}
	}
	// The second arriving, the first has been dealt with.
	_ = l.SetDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := l.ReadFrom(make([]byte, 64)); err != nil {
		t.Fatalf("the namespace takes no frames: %v", err)
	}
	if f := nextFrame(files[1], func(f []byte) bool { return bytes.Contains(f, []byte("here")) }); f != nil {
		t.Errorf("forwarded to the other leg: % x", f)
	}
}

// The routes by turns: defaults of both families and the resolver move from leg to leg and go.
func TestKernelSetRoutes(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	legs(t)
	ns := netns.Namespace{Own: true}
	six := func(i int) plumb.Hop {
		return plumb.Hop{Dev: fmt.Sprintf("eth%d", i), Addr: netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", i))}
	}
	var was plumb.Routes
	for step, want := range []plumb.Routes{
		{Default4: hop(0)},
		{Default4: hop(1), Default6: six(0), Resolver: hop(1)},
		{Default4: hop(0), Default6: six(1), Resolver: hop(0)},
		{Default6: six(1), Resolver: hop(1)},
		{Default4: hop(1)},
		{},
	} {
		if err := ns.SetRoutes(was, want); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		wantRoutes(t, want)
		was = want
	}
}

// wantRoutes compares what the kernel has with want.
func wantRoutes(t *testing.T, want plumb.Routes) {
	t.Helper()
	for _, r := range []struct {
		family int
		hop    plumb.Hop
	}{{netlink.FAMILY_V4, want.Default4}, {netlink.FAMILY_V6, want.Default6}} {
		var got []string
		routes, err := netlink.RouteListFiltered(r.family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range routes {
			got = append(got, fmt.Sprint(k.LinkIndex, k.Gw))
		}
		var wanted []string
		if !r.hop.IsZero() {
			wanted = []string{fmt.Sprint(index(t, r.hop.Dev), net.IP(r.hop.Addr.AsSlice()))}
		}
		if strings.Join(got, " ") != strings.Join(wanted, " ") {
			t.Errorf("default routes %q, want %q", got, wanted)
		}
	}
	for _, dev := range []string{"eth0", "eth1"} {
		on := "0"
		neighbours := 0
		if dev == want.Resolver.Dev {
			on, neighbours = "1", 1
		}
		wantSysctl(t, "ipv4/conf/"+dev+"/route_localnet", on)
		ns, err := netlink.NeighList(index(t, dev), netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		if len(ns) != neighbours || neighbours == 1 && (ns[0].HardwareAddr.String() != want.Resolver.MAC.String() || ns[0].State != netlink.NUD_PERMANENT) {
			t.Errorf("neighbours on %s: %v, want %v", dev, ns, want.Resolver)
		}
	}
	dev := want.Resolver.Dev
	if dev == "" {
		dev = "lo"
	}
	if r, err := netlink.RouteGet(netns.Resolver.AsSlice()); err != nil || len(r) != 1 || r[0].LinkIndex != index(t, dev) {
		t.Errorf("route to the resolver: %v, %v, want by %s", r, err, dev)
	}
}

// Routes that cannot be made leave those that are.
func TestKernelSetRoutesRefused(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	legs(t)
	ns := netns.Namespace{Own: true}
	was := plumb.Routes{Default4: hop(0), Resolver: hop(0)}
	if err := ns.SetRoutes(plumb.Routes{}, was); err != nil {
		t.Fatal(err)
	}
	noMAC, other := hop(1), hop(1)
	noMAC.MAC, other.Addr = l2.MAC{}, netip.MustParseAddr("fd00:1::1")
	for want, r := range map[string]plumb.Routes{
		"find interface eth7: Link not found":       {Default4: plumb.Hop{Dev: "eth7", Addr: hop(0).Addr}},
		"it needs a MAC address":                    {Default4: hop(1), Resolver: noMAC},
		"gateway fd00:1::1 is of the other family":  {Default4: other},
		"by ::1 on eth1":                            {Default4: hop(1), Default6: plumb.Hop{Dev: "eth1", Addr: netip.IPv6Loopback()}},
		"resolver 127.0.0.11: find interface eth7:": {Default4: hop(1), Resolver: plumb.Hop{Dev: "eth7", MAC: hop(0).MAC}},
	} {
		if err := ns.SetRoutes(was, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		wantRoutes(t, was)
	}
	// A route that was not ours is not replaced.
	if err := ns.SetRoutes(plumb.Routes{}, plumb.Routes{Default4: hop(1)}); err == nil || !strings.Contains(err.Error(), "there is another one already") {
		t.Errorf("%v", err)
	}
	wantRoutes(t, plumb.Routes{Default4: hop(0), Resolver: hop(0)})
}

// A question to 127.0.0.11 leaves by the leg, from the leg's own address and to the gateway's MAC, and port 53
// of every address in the namespace stays free for others (the answer comes in).
func TestKernelResolver(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	files, links := legs(t)
	if err := (netns.Namespace{Own: true}).SetRoutes(plumb.Routes{}, plumb.Routes{Resolver: hop(1)}); err != nil {
		t.Fatal(err)
	}
	own, err := net.ListenPacket("udp4", ":53")
	if err != nil {
		t.Fatalf("port 53 is taken: %v", err)
	}
	defer own.Close()
	c, err := net.Dial("udp4", "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.LocalAddr().(*net.UDPAddr).IP.String(); got != "10.0.1.100" {
		t.Errorf("asked from %s", got)
	}
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	f := nextFrame(files[1], func(f []byte) bool { return bytes.Contains(f, []byte("question")) })
	if f == nil {
		t.Fatal("the question did not come")
	}
	if mac := hop(1).MAC; !bytes.Equal(f[:6], mac[:]) || !bytes.Equal(f[26:34], []byte{10, 0, 1, 100, 127, 0, 0, 11}) {
		t.Errorf("frame % x", f[:42])
	}
	// The answer: addresses and ports the other way round, which changes no checksum of IP; UDP goes without.
	answer := bytes.Clone(f)
	copy(answer, links[1].MAC[:])
	copy(answer[6:], f[:6])
	copy(answer[26:], []byte{127, 0, 0, 11, 10, 0, 1, 100})
	copy(answer[34:], []byte{f[36], f[37], f[34], f[35]})
	answer[40], answer[41] = 0, 0
	copy(answer[42:], "answered")
	if _, err := files[1].Write(answer); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "answered" {
		t.Errorf("answer %q, %v", b[:n], err)
	}
}

// An interface goes by its name, and only if it is a TAP.
func TestKernelUnplug(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	legs(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth1"}); err != nil {
		t.Fatal(err)
	}
	ns := netns.Namespace{Own: true}
	for name, there := range map[string]bool{"eth1": false, "absent": false, "veth0": true, "lo": true} {
		if err := ns.Unplug(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := netlink.LinkByName(name); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	index(t, "eth0")
}

func index(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

package portfwd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
)

// kernelPorts lists what is bound to port by this process's namespace, from /proc/net, as `ss -tuln` would.
func kernelPorts(t *testing.T, port uint16) []string {
	t.Helper()
	var got []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) < 4 {
				continue
			}
			host, hex, _ := strings.Cut(f[1], ":")
			p, err := strconv.ParseUint(hex, 16, 16)
			// 0A is LISTEN, 07 is what an unconnected UDP socket shows.
			if err == nil && uint16(p) == port && (f[3] == "0A" || f[3] == "07") {
				got = append(got, table+" "+host)
			}
		}
	}
	slices.Sort(got)
	// A socket is listed again when others come and go between two reads of the table.
	return slices.Compact(got)
}

// hex is an address as /proc/net has it.
const (
	anyV4, loV4 = "00000000", "0100007F"
	anyV6, loV6 = "00000000000000000000000000000000", "00000000000000000000000001000000"
)

// TestListenBindsExactly is LU-09: what was asked, and nothing else.
func TestListenBindsExactly(t *testing.T) {
	rows := []struct {
		value string
		ipv6  bool
		want  []string
	}{
		{"80", true, []string{"tcp " + anyV4, "tcp6 " + anyV6}},
		{"80", false, []string{"tcp " + anyV4}},
		{"80/udp", true, []string{"udp " + anyV4, "udp6 " + anyV6}},
		{"0.0.0.0::80", true, []string{"tcp " + anyV4}},
		{"0.0.0.0::80/udp", true, []string{"udp " + anyV4}},
		{"[::]::80", true, []string{"tcp6 " + anyV6}},
		{"127.0.0.1::80", true, []string{"tcp " + loV4}},
		{"[::1]::80", true, []string{"tcp6 " + loV6}},
		{"[::1]::80/udp", false, []string{"udp6 " + loV6}},
	}
	for _, r := range rows {
		specs, err := Parse(r.value)
		if err != nil {
			t.Fatal(err)
		}
		ls, err := Listen(specs, r.ipv6)
		if err != nil {
			t.Fatalf("Listen(%s): %v", r.value, err)
		}
		for _, l := range ls {
			if l.Spec.HostPort != ls[0].Spec.HostPort || l.Spec.HostPort == 0 || !l.Spec.HostIP.IsValid() || l.Spec.Port != 80 {
				t.Errorf("Listen(%s) made %+v beside %+v", r.value, l.Spec, ls[0].Spec)
			}
		}
		if got := kernelPorts(t, ls[0].Spec.HostPort); !slices.Equal(got, r.want) {
			t.Errorf("Listen(%s, ipv6=%v): the kernel has %q, want %q", r.value, r.ipv6, got, r.want)
		}
		closeListeners(ls)
		if got := kernelPorts(t, ls[0].Spec.HostPort); len(got) != 0 {
			t.Errorf("Listen(%s): %q left after Close", r.value, got)
		}
	}
}

func TestListenSocketOptions(t *testing.T) {
	ls, err := Listen([]Spec{{Proto: TCP, Port: 1}, {Proto: UDP, Port: 1}}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeListeners(ls)
	if len(ls) != 4 {
		t.Fatalf("%d sockets, want one for each transport and family", len(ls))
	}
	for _, l := range ls {
		fd := int(l.File.Fd())
		opt := func(level, name int) int {
			v, err := unix.GetsockoptInt(fd, level, name)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if opt(unix.SOL_SOCKET, unix.SO_REUSEPORT) != 0 {
			t.Errorf("%s: SO_REUSEPORT is set", l.Spec)
		}
		if got := opt(unix.SOL_SOCKET, unix.SO_REUSEADDR) == 1; got != (l.Spec.Proto == TCP) {
			t.Errorf("%s: SO_REUSEADDR is %v", l.Spec, got)
		}
		if l.Spec.HostIP.Is6() && opt(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) != 1 {
			t.Errorf("%s: not IPV6_V6ONLY", l.Spec)
		}
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		fdFlags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if flags&unix.O_NONBLOCK == 0 || fdFlags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: non-blocking %v, close-on-exec %v", l.Spec, flags&unix.O_NONBLOCK != 0, fdFlags&unix.FD_CLOEXEC != 0)
		}
	}
}

// TestListenPortInUse is LU-08: the error names the port, and nothing is left bound.
func TestListenPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).AddrPort().Port()
	other := freePort(t)
	specs := []Spec{{Proto: TCP, HostPort: other, Port: 1}, {Proto: UDP, HostPort: other, Port: 1}, {Proto: TCP, HostPort: port, Port: 2}}
	ls, err := Listen(specs, true)
	want := fmt.Sprintf("publish 0.0.0.0:%d/tcp: address already in use; publish another host port", port)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), want) || ls != nil {
		t.Fatalf("Listen = %v, %v; want %q", ls, err, want)
	}
	if got := kernelPorts(t, other); len(got) != 0 {
		t.Errorf("%q stay bound after the error", got)
	}
	// A port is ours alone: nobody listens beside us.
	ours, err := Listen(specs[:2], true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeListeners(ours)
	for _, again := range [][]Spec{specs[:1], specs[1:2], {{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: other, Port: 9}}} {
		if _, err := Listen(again, true); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen(%v) beside itself: %v", again, err)
		}
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	ls, err := Listen([]Spec{{Proto: TCP, Port: 1}}, true)
	if err != nil {
		t.Fatal(err)
	}
	closeListeners(ls)
	return ls[0].Spec.HostPort
}

func TestListenRefuses(t *testing.T) {
	lo := addr("127.0.0.1")
	rows := []struct {
		specs []Spec
		want  string
		errno error
	}{
		{[]Spec{{Proto: TCP, HostPort: 8000, Port: 80}, {Proto: TCP, HostPort: 8000, Port: 81}}, "0.0.0.0:8000/tcp is published already by 8000:80/tcp", nil},
		{[]Spec{{Proto: TCP, HostPort: 8000, Port: 80}, {Proto: TCP, HostIP: lo, HostPort: 8000, Port: 80}}, "127.0.0.1:8000/tcp is published already", nil},
		{[]Spec{{Proto: TCP, HostIP: addr("192.0.2.1"), HostPort: 8000, Port: 80}}, "publish 192.0.2.1:8000/tcp: cannot assign requested address; 192.0.2.1 is not an address of this host", syscall.EADDRNOTAVAIL},
		{[]Spec{{Proto: "sctp", Port: 80}}, "invalid proto: sctp", nil},
		{[]Spec{{Proto: TCP}}, "invalid containerPort: 0", nil},
		{[]Spec{{Proto: TCP, HostPort: 9, HostPortEnd: 8, Port: 1}}, "invalid hostPort: 9-8", nil},
		{[]Spec{{Proto: TCP, HostIP: addr("::ffff:127.0.0.1"), Port: 1}}, "invalid IP address", nil},
		{[]Spec{{Proto: TCP, HostPort: 8000, Port: 80, Device: "nosuchif0"}}, `no such device; "nosuchif0" is not an interface of this host`, syscall.ENODEV},
		{[]Spec{{Proto: TCP, Port: 80, Device: "longer-than-any-interface"}}, "invalid interface name", nil},
		{[]Spec{{Proto: TCP, Port: 80, Device: "a/b"}}, "invalid interface name", nil},
		{[]Spec{{Proto: TCP, Port: 80, To: addr("127.0.0.1")}}, "invalid container address: 127.0.0.1", nil},
		{[]Spec{{Proto: TCP, Port: 80, To: addr("ff02::1")}}, "invalid container address: ff02::1", nil},
	}
	for _, r := range rows {
		ls, err := Listen(r.specs, true)
		if err == nil || !strings.Contains(err.Error(), r.want) || r.errno != nil && !errors.Is(err, r.errno) {
			t.Errorf("Listen(%v) = %v, %v; want %q", r.specs, ls, err, r.want)
		}
		closeListeners(ls)
	}
}

// TestListenSamePortTwice: one port of two loopback addresses, transports and families goes to two containers (LU-10).
func TestListenSamePortTwice(t *testing.T) {
	p := freePort(t)
	specs := []Spec{
		{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: p, Port: 80}, {Proto: TCP, HostIP: addr("127.0.0.2"), HostPort: p, Port: 80},
		{Proto: UDP, HostIP: addr("127.0.0.1"), HostPort: p, Port: 80}, {Proto: TCP, HostIP: addr("::1"), HostPort: p, Port: 80},
	}
	ls, err := Listen(specs, true)
	if err != nil {
		t.Fatal(err)
	}
	closeListeners(ls)
	for i := range ls {
		if ls[i].Spec != specs[i] {
			t.Errorf("socket %d is %v, want %v", i, ls[i].Spec, specs[i])
		}
	}
}

// TestListenDevice: a listener of an interface has the port there, and leaves it to one of another.
func TestListenDevice(t *testing.T) {
	for _, proto := range []Proto{TCP, UDP} {
		ls, err := Listen([]Spec{{Proto: proto, Port: 80, Device: "lo"}}, true)
		if err != nil {
			t.Fatal(err)
		}
		defer closeListeners(ls)
		for _, l := range ls {
			name, err := unix.GetsockoptString(int(l.File.Fd()), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
			if err != nil || name != "lo" || l.Spec.Device != "lo" {
				t.Errorf("%s is bound to %q, %v", l.Spec, name, err)
			}
		}
	}
	one := Spec{Proto: TCP, HostPort: 8000, Port: 80, Device: "lo"}
	other := one
	other.Device = "eth0"
	if err := checkSpecs([]Spec{one, other}); err != nil {
		t.Errorf("one port of two interfaces: %v", err)
	}
	other.Device = ""
	if err := checkSpecs([]Spec{one, other}); err == nil {
		t.Error("one port of an interface and of all was let through")
	}
}

func TestListenRangeTakesFirstFree(t *testing.T) {
	p := freePort(t)
	for p > 65000 {
		p = freePort(t)
	}
	// The range comes first, yet the exact port of the second Spec is left to it.
	ls, err := Listen([]Spec{
		{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: p, HostPortEnd: p + 200, Port: 80},
		{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: p, Port: 81},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeListeners(ls)
	if ls[1].Spec.HostPort != p || ls[0].Spec.HostPort <= p || ls[0].Spec.HostPort > p+200 || ls[0].Spec.HostPortEnd != 0 {
		t.Errorf("bound %v", []Spec{ls[0].Spec, ls[1].Spec})
	}
	one := Spec{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: p, HostPortEnd: p + 1, Port: 80}
	blocked, err := Listen([]Spec{{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: p + 1, Port: 1}}, true)
	if err == nil {
		defer closeListeners(blocked)
	}
	if _, err := Listen([]Spec{one}, true); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "no port of the range is free") {
		t.Errorf("full range: %v", err)
	}
}

// TestListenFreePortCollides is FT-24: others hold ports in one family only, so the kernel's choice
// for the first family is often taken in the second.
func TestListenFreePortCollides(t *testing.T) {
	var others []net.Listener
	defer func() {
		for _, l := range others {
			l.Close()
		}
	}()
	for range 400 {
		l, err := net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback})
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, l)
	}
	var all []Listener
	defer func() { closeListeners(all) }()
	for range 100 {
		ls, err := Listen([]Spec{{Proto: TCP, Port: 80}}, true)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ls...)
		if len(ls) != 2 || ls[0].Spec.HostPort != ls[1].Spec.HostPort {
			t.Fatalf("bound %v", ls)
		}
	}
}

// TestListenAgainWithTimeWait is FT-04: connections in TIME_WAIT do not hold the port.
func TestListenAgainWithTimeWait(t *testing.T) {
	spec := []Spec{{Proto: TCP, HostIP: addr("127.0.0.1"), Port: 80}}
	ls, err := Listen(spec, true)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.FileListener(ls[0].File)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	srv.Close() // the side that closes first keeps TIME_WAIT
	client.Read(make([]byte, 1))
	client.Close()
	ln.Close()
	closeListeners(ls)
	spec[0].HostPort = ls[0].Spec.HostPort
	again, err := Listen(spec, true)
	if err != nil {
		t.Fatal(err)
	}
	closeListeners(again)
}

// TestExplain shows the words for refusals that are hard to provoke.
func TestExplain(t *testing.T) {
	s := Spec{Proto: TCP, HostIP: netip.IPv4Unspecified(), HostPort: 80, Port: 80}
	rows := []struct {
		spec  Spec
		errno syscall.Errno
		want  string
	}{
		{s, syscall.EACCES, "publish 0.0.0.0:80/tcp: permission denied; publish a port >= 1024 or set net.ipv4.ip_unprivileged_port_start=80"},
		{s, syscall.EADDRINUSE, "publish 0.0.0.0:80/tcp: address already in use; publish another host port or stop what holds this one"},
		{Spec{Proto: UDP, HostIP: addr("::1"), HostPort: 5, Port: 1}, syscall.EAFNOSUPPORT, "publish [::1]:5/udp: address family not supported by protocol; this host has no IPv6"},
		{s, syscall.EMFILE, "publish 0.0.0.0:80/tcp: too many open files; raise the limit of open files (ulimit -n) or publish fewer ports"},
	}
	for _, r := range rows {
		if err := explain(r.spec, r.errno); err.Error() != r.want || !errors.Is(err, r.errno) {
			t.Errorf("got  %v\nwant %s", err, r.want)
		}
	}
}

// TestListenPrivilegedPort is LU-13: without the capability the kernel says no, and we say what to do. On a host of its
// own, where privileged ports end before 1024, as they do unless somebody has changed it.
func TestListenPrivilegedPort(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	const start = 1024
	spec := Spec{Proto: TCP, HostIP: addr("0.0.0.0"), HostPort: start - 1, Port: 80}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread that gave up its capabilities ends
		header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&header, &none[0]); err != nil {
			failed <- err
			return
		}
		ls, err := Listen([]Spec{spec}, true)
		closeListeners(ls)
		failed <- err
	}()
	err := <-failed
	want := fmt.Sprintf("publish %s: permission denied; publish a port >= 1024 or set net.ipv4.ip_unprivileged_port_start=%d", spec.host(), start-1)
	if !errors.Is(err, syscall.EACCES) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestListenUrgent: urgent bytes that come before a connection is accepted are bytes of its stream as well.
func TestListenUrgent(t *testing.T) {
	ls, err := Listen([]Spec{{Proto: TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeListeners(ls)
	ln, err := net.FileListener(ls[0].File)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sockaddr(ln.Addr().(*net.TCPAddr).AddrPort())); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		b     string
		flags int
	}{{"before", 0}, {"!", unix.MSG_OOB}, {"after", 0}, {"?", unix.MSG_OOB}, {"end", 0}} {
		if err := unix.Send(fd, []byte(part.b), part.flags); err != nil {
			t.Fatal(err)
		}
	}
	unix.Close(fd)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "before!after?end" {
		t.Errorf("got %q, %v", b, err)
	}
}

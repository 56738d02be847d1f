package rootlessport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
	tapnetns "github.com/usernet/usernet/tap/netns"
)

// role makes the test binary the program itself.
const role = "USERNET_TEST_ROOTLESSPORT"

func TestMain(m *testing.M) {
	if os.Getenv(role) != "" {
		os.Exit(Main([]string{"rootlessport"}, os.Environ(), [3]*os.File{os.Stdin, os.Stdout, os.Stderr}))
	}
	os.Exit(m.Run())
}

// patience is for what must come.
const patience = 30 * time.Second

// The addresses of the world. The clients' are the host's own; a client uses one by binding to it.
const (
	container4, container6 = "10.89.0.2", "fd00:89::2"
	bridge4, bridge6       = "10.89.0.1", "fd00:89::1"
	client4, client6       = "198.51.100.7", "2001:db8::7"
	host4, host6           = "198.51.100.8", "2001:db8::8"
)

// world is a host, the namespace of the test, with a container behind a link of the host's.
type world struct {
	t         *testing.T
	container *os.File // its network namespace
	dir       string
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// newWorld makes it; the caller is inside a namespace of the test's own.
func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "rp")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, container: newNamespace(t), dir: dir}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, PeerName: "eth0"}))
	peer, err := netlink.LinkByName("eth0")
	must(t, err, netlink.LinkSetNsFd(peer, int(w.container.Fd())))
	must(t, configure("lo", client4+"/32", host4+"/32", client6+"/128", host6+"/128"))
	must(t, configure("br0", bridge4+"/24", bridge6+"/64"))
	must(t, tapnetns.Do(w.container, func() error {
		return errors.Join(
			configure("lo"), configure("eth0", container4+"/24", container6+"/64"),
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(bridge4)}), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(bridge6)}))
	}))
	must(t, settled(client6, host6, bridge6))
	must(t, tapnetns.Do(w.container, func() error { return settled(container6) }))
	return w
}

// settled waits until IPv6 addresses of this namespace are such: the kernel makes their local routes a moment after them,
// and what is sent there before is lost on lo.
func settled(addrs ...string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		missing := slices.DeleteFunc(slices.Clone(addrs), func(a string) bool {
			return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.String() == a })
		})
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no local routes of %v", missing)
		}
	}
}

// newNamespace makes one and comes back: the thread may be the process's first, which names its namespace.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	must(t, err)
	defer host.Close()
	ns, err := netns.New()
	must(t, err, netns.Set(host))
	f := os.NewFile(uintptr(ns), "container")
	t.Cleanup(func() { f.Close() })
	return f
}

func configure(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	errs := []error{netlink.LinkSetUp(l)}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		errs = append(errs, netlink.AddrAdd(l, a))
	}
	return errors.Join(errs...)
}

// serve has a server in the container on every address that tells who it believes speaks to it, by TCP and UDP.
func (w *world) serve(port uint16) {
	w.t.Helper()
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), port).String()
	must(w.t, tapnetns.Do(w.container, func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.Copy(io.Discard, c)
					io.WriteString(c, c.RemoteAddr().String())
				}()
			}
		}()
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { u.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo([]byte(fmt.Sprint(from, " ", n)), from)
			}
		}()
		return nil
	}))
}

// program is a running rootlessport.
type program struct {
	cmd  *exec.Cmd
	exit *os.File // closed to end it
	out  proctest.Output
}

// start runs it with a configuration and waits until it is ready.
func (w *world) start(c config) *program {
	w.t.Helper()
	p, ready := w.launch(c)
	b, err := io.ReadAll(ready)
	if err != nil || string(b) != "1" {
		w.t.Fatalf("said %q when it was to be ready, %v: %s", b, err, p.out.String())
	}
	return p
}

func (w *world) launch(c config) (p *program, ready *os.File) {
	w.t.Helper()
	exitR, exitW, err := os.Pipe()
	must(w.t, err)
	readyR, readyW, err := os.Pipe()
	must(w.t, err)
	c.ExitFD, c.ReadyFD, c.TmpDir = 3, 4, w.dir
	c.NetNSPath = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.container.Fd())
	text, err := json.Marshal(c)
	must(w.t, err)
	stdin, err := os.CreateTemp(w.dir, "config")
	must(w.t, err)
	_, err = stdin.Write(text)
	must(w.t, err)
	_, err = stdin.Seek(0, io.SeekStart)
	must(w.t, err)
	p = &program{exit: exitW}
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Env = append(os.Environ(), role+"=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.out, &p.out
	p.cmd.ExtraFiles = []*os.File{exitR, readyW}
	must(w.t, p.cmd.Start())
	exitR.Close()
	readyW.Close()
	stdin.Close()
	w.t.Cleanup(func() { exitW.Close(); readyR.Close(); p.cmd.Process.Kill(); p.cmd.Wait() })
	must(w.t, readyR.SetReadDeadline(time.Now().Add(patience)))
	return p, readyR
}

// ask speaks to a published port of the host from an address of a client, and returns who the container says that is.
func ask(t *testing.T, network, from string, to netip.AddrPort, payload string) (seen netip.AddrPort, answer string) {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if from != "" {
		a := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
		d.LocalAddr = net.TCPAddrFromAddrPort(a)
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(a)
		}
	}
	c, err := d.Dial(network, to.String())
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, payload)
	must(t, err)
	b := make([]byte, 1<<16)
	n := 0
	if tcp, ok := c.(*net.TCPConn); ok {
		must(t, tcp.CloseWrite())
		var all []byte
		all, err = io.ReadAll(c)
		n = copy(b, all)
	} else {
		n, err = c.Read(b)
	}
	if err != nil {
		t.Fatalf("%s to %s from %q: %v", network, to, from, err)
	}
	var size int
	var who string
	fmt.Sscan(string(b[:n]), &who, &size)
	seen, err = netip.ParseAddrPort(who)
	must(t, err)
	if network == "udp" && size != len(payload) {
		t.Errorf("a datagram of %d bytes arrived with %d", len(payload), size)
	}
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	must(t, err)
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port()), local.String()
}

// reload tells the program the container's new address, and returns its answer.
func (w *world) reload(id, text string) string {
	w.t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: filepath.Join(w.dir, "rp", id), Net: "unixpacket"})
	must(w.t, err)
	defer c.Close()
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, text)
	must(w.t, err)
	b, err := io.ReadAll(c)
	must(w.t, err)
	return string(b)
}

// rules counts the routing rules and routes in the container that are the program's.
func (w *world) rules() (rules, routes int) {
	w.t.Helper()
	must(w.t, tapnetns.Do(w.container, func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rs, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.Table == routeTable {
					rules++
				}
			}
			table, err := netlink.RouteListFiltered(family, &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			routes += len(table)
		}
		return nil
	}))
	return rules, routes
}

func port(n uint16) string { return strconv.Itoa(int(n)) }

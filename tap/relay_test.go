package tap_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// station is a network namespace with one TAP, and what is at its other end.
type station struct {
	ns   *os.File
	dev  *tap.Device
	addr [2]netip.Addr // IPv4, IPv6
}

// newStation makes a station whose addresses end in n. Its thread stays behind in the namespace.
func newStation(tb testing.TB, n byte, mode string) *station {
	tb.Helper()
	s := &station{addr: [2]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 2, n}), netip.AddrFrom16([16]byte{0: 0xfd, 15: n})}}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- s.setUp(n, mode)
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.dev.Close(); s.ns.Close() })
	return s
}

func (s *station) setUp(n byte, mode string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	f, info, err := tap.CreateMode("eth0", 1500, l2.MAC{2, 0, 0, 0, 0, n}, mode)
	if err != nil {
		return err
	}
	if s.dev, err = tap.Open(f, info, tap.Options{}); err != nil {
		return err
	}
	err = netns.Namespace{}.Configure([]plumb.Link{{
		Name: "eth0", Addr4: netip.PrefixFrom(s.addr[0], 24), Addr6: netip.PrefixFrom(s.addr[1], 64),
	}}, plumb.Routes{})
	if err != nil {
		return err
	}
	s.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	return err
}

// do runs fn in the station's namespace.
func (s *station) do(tb testing.TB, fn func() error) {
	tb.Helper()
	if err := netns.Do(s.ns, fn); err != nil {
		tb.Error(err)
	}
}

// connect is a cable between two stations.
func connect(tb testing.TB, a, b *station) {
	var wg sync.WaitGroup
	for _, d := range [][2]*tap.Device{{a.dev, b.dev}, {b.dev, a.dev}} {
		wg.Go(func() {
			if err := d[0].Run(func(fs []l2.Frame) { d[1].Output(fs) }, nil); err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(func() { a.dev.Close(); b.dev.Close(); wg.Wait() })
}

// transfer sends data from a to b over TCP and checks that it arrived.
func transfer(tb testing.TB, a, b *station, family int, data []byte) {
	tb.Helper()
	var l net.Listener
	b.do(tb, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(b.addr[family], 0).String())
		return err
	})
	if l == nil {
		return
	}
	defer l.Close()
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		if c, err := l.Accept(); err == nil {
			io.Copy(h, c)
			c.Close()
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	a.do(tb, func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			l.Close()
			return err
		}
		defer c.Close()
		_, err = c.Write(data)
		return err
	})
	if <-sum != sha256.Sum256(data) {
		tb.Error("data differs")
	}
}

// datagrams sends one large UDP write that the kernel hands over as a single USO frame.
func datagrams(tb testing.TB, a, b *station, family int) {
	tb.Helper()
	var in *net.UDPConn
	b.do(tb, func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.addr[family], 0)))
		return err
	})
	if in == nil {
		return
	}
	defer in.Close()
	const size, count = 1000, 20
	a.do(tb, func() error {
		c, err := net.Dial("udp", in.LocalAddr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		rc, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
		if err != nil {
			return err
		}
		var data []byte
		for i := range count {
			data = append(data, bytes.Repeat([]byte{byte(i)}, size)...)
		}
		_, err = c.Write(data)
		return err
	})
	buf := make([]byte, 2000)
	for i := range count {
		n, err := in.Read(buf)
		if err != nil || n != size || !bytes.Equal(buf[:n], bytes.Repeat([]byte{byte(i)}, size)) {
			tb.Fatalf("datagram %d: %d bytes, %v", i, n, err)
		}
	}
}

// Two kernels, each behind a TAP, talk through our reading and writing. One's frames of 64 KiB and
// partial checksums reach the other whole, or cut and completed by us: the other kernel is the judge.
func TestKernelRelay(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	data := make([]byte, 8<<20)
	rnd := rand.NewChaCha8([32]byte{})
	rnd.Read(data)
	for _, modes := range [][2]string{{"Best", "Best"}, {"Best", "Plain"}, {"Best", "NoUSO"}, {"Plain", "Plain"}} {
		t.Run(modes[0]+"To"+modes[1], func(t *testing.T) {
			a, b := newStation(t, 1, modes[0]), newStation(t, 2, modes[1])
			connect(t, a, b)
			for family, name := range []string{"IPv4", "IPv6"} {
				t.Run(name, func(t *testing.T) {
					transfer(t, a, b, family, data)
					datagrams(t, a, b, family)
					datagrams(t, b, a, family)
				})
			}
		})
	}
}

// discard sends data from a to b, which reads and forgets it.
func discard(tb testing.TB, a, b *station, data []byte) {
	tb.Helper()
	var l net.Listener
	b.do(tb, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(b.addr[0], 0).String())
		return err
	})
	if l == nil {
		return
	}
	defer l.Close()
	n := make(chan int, 1)
	go func() {
		buf, total := make([]byte, 1<<18), 0
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			for {
				k, err := c.Read(buf)
				total += k
				if err != nil {
					break
				}
			}
		}
		n <- total
	}()
	a.do(tb, func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			l.Close()
			return err
		}
		defer c.Close()
		_, err = c.Write(data)
		return err
	})
	if got := <-n; got != len(data) {
		tb.Errorf("%d bytes arrived of %d", got, len(data))
	}
}

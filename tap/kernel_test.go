package tap_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/taptest"
)

// device is a kernel TAP with a Device on it.
type device struct {
	*tap.Device
	info  tap.Info
	link  netlink.Link
	drops drop.Counters
}

func newDevice(tb testing.TB, name string, mtu int, mode string) *device {
	tb.Helper()
	f, info, err := tap.CreateMode(name, mtu, l2.MAC{2, 0, 0, 0, 0, 1}, mode)
	if err != nil {
		tb.Fatal(err)
	}
	return openDevice(tb, f, info)
}

func openDevice(tb testing.TB, f *os.File, info tap.Info) *device {
	tb.Helper()
	d := &device{info: info}
	var err error
	if d.Device, err = tap.Open(f, info, tap.Options{Drops: &d.drops}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	if d.link, err = netlink.LinkByName(info.Name); err != nil {
		tb.Fatal(err)
	}
	return d
}

func (d *device) setLink(up bool) error {
	if up {
		return netlink.LinkSetUp(d.link)
	}
	return netlink.LinkSetDown(d.link)
}

// packetFar is the container's end: a packet socket on its interface.
type packetFar struct{ fd int }

func newPacketFar(tb testing.TB, link netlink.Link) packetFar {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	proto := uint16(taptest.TestType)
	addr := &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: link.Attrs().Index}
	if err := unix.Bind(fd, addr); err != nil {
		tb.Fatal(err)
	}
	// A Recv that gets nothing is a failed test, not a hung one.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		tb.Fatal(err)
	}
	return packetFar{fd}
}

func (p packetFar) Send(f l2.Frame) error {
	b := append([]byte(nil), f.Header[:]...)
	for _, s := range f.L3 {
		b = append(b, s...)
	}
	_, err := unix.Write(p.fd, b)
	if err == unix.ENETDOWN {
		// What the socket remembers of a link that was down; told once.
		_, err = unix.Write(p.fd, b)
	}
	return err
}

func (p packetFar) Recv() (l2.Frame, error) {
	b := make([]byte, 1<<17)
	n, err := unix.Read(p.fd, b)
	if err != nil {
		return l2.Frame{}, err
	}
	return l2.Frame{Header: l2.Header(b), L3: [][]byte{b[l2.HeaderLen:n]}}, nil
}

func TestKernelContract(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	for _, mode := range []string{"Best", "NoUSO", "NoOffloads", "Plain"} {
		t.Run(mode, func(t *testing.T) {
			taptest.Contract(t, func(t *testing.T) *taptest.Fixture {
				d := newDevice(t, "eth0", taptest.MinFixtureMTU, mode)
				if err := d.setLink(true); err != nil {
					t.Fatal(err)
				}
				return &taptest.Fixture{
					Device: d, Far: newPacketFar(t, d.link), Drops: &d.drops,
					SetLink: d.setLink, Delete: func() error { return netlink.LinkDel(d.link) },
				}
			})
		})
	}
}

func TestKernelCreate(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	mac := l2.MAC{2, 0, 0, 0, 0, 7}
	for mode, want := range map[string]tap.Info{
		"Best":       {Name: "tap7", VNet: true, Offloads: tap.OffloadAll, MTU: 1400},
		"NoUSO":      {Name: "tap7", VNet: true, Offloads: tap.OffloadTSO, MTU: 1400},
		"NoOffloads": {Name: "tap7", VNet: true, MTU: 1400},
		"Refused":    {Name: "tap7", VNet: true, Offloads: tap.OffloadTSO, MTU: 1400},
		"Plain":      {Name: "tap7", MTU: 1400},
	} {
		f, info, err := tap.CreateMode("tap7", 1400, mac, mode)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		want.MAC = mac
		if info != want {
			t.Errorf("%s: %+v, want %+v", mode, info, want)
		}
		link, err := netlink.LinkByName("tap7")
		if err != nil {
			t.Fatal(err)
		}
		if a := link.Attrs(); a.MTU != 1400 || a.HardwareAddr.String() != mac.String() {
			t.Errorf("%s: MTU %d, MAC %v", mode, a.MTU, a.HardwareAddr)
		}
		if _, _, err := tap.Create("tap7", 1400, mac); err == nil || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("%s: second Create: %v", mode, err)
		}
		if _, _, err := tap.Attach("tap7"); err == nil || !strings.Contains(err.Error(), "busy") {
			t.Errorf("%s: Attach to a device in use: %v", mode, err)
		}
		// The device ends with the descriptor.
		f.Close()
		if _, err := netlink.LinkByName("tap7"); err == nil {
			t.Errorf("%s: the device is still there", mode)
		}
	}
	if _, _, err := tap.Attach("tap7"); err == nil || !strings.Contains(err.Error(), "no such interface") {
		t.Errorf("Attach to nothing: %v", err)
	}
	if _, err := netlink.LinkByName("tap7"); err == nil {
		t.Error("Attach to nothing made a device")
	}
}

// A device that another program made persistent, as slirp4netns' callers do, is taken over and
// left behind; what its last user promised the kernel is forgotten.
func TestKernelAttach(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	persistent := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_NO_PI, Queues: 1,
	}
	if err := netlink.LinkAdd(persistent); err != nil {
		t.Fatal(err)
	}
	for _, f := range persistent.Fds {
		f.Close()
	}
	for _, mode := range []string{"Best", "Plain", "NoUSO"} {
		f, info, err := tap.AttachMode("tap0", mode)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if info.MTU != 1500 || info.VNet != (mode != "Plain") {
			t.Errorf("%s: %+v", mode, info)
		}
		d := openDevice(t, f, info)
		if err := d.setLink(true); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		got := make(chan int, 10)
		go func() {
			done <- d.Run(func(fs []l2.Frame) {
				for i := range fs {
					if fs[i].Header.Type() == taptest.TestType {
						got <- fs[i].Len()
					}
				}
			}, nil)
		}()
		fr := l2.Frame{Header: l2.MakeHeader(l2.Broadcast, l2.MAC{2}, taptest.TestType), L3: [][]byte{make([]byte, 333)}}
		if err := newPacketFar(t, d.link).Send(fr); err != nil {
			t.Fatal(err)
		}
		if n := <-got; n != 333 {
			t.Errorf("%s: %d bytes", mode, n)
		}
		d.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName("tap0"); err != nil {
			t.Fatalf("%s: the persistent device is gone: %v", mode, err)
		}
	}
}

// HC-28: what else a container does to its interface.
func TestKernelHostileLink(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	d := newDevice(t, "eth0", 1500, "Best")
	done := make(chan error)
	got := make(chan int, 100)
	go func() {
		done <- d.Run(func(fs []l2.Frame) {
			for i := range fs {
				if fs[i].Header.Type() == taptest.TestType {
					got <- fs[i].Len()
				}
			}
		}, nil)
	}()
	send := func(n int) {
		t.Helper()
		if err := d.setLink(true); err != nil {
			t.Fatal(err)
		}
		fr := l2.Frame{Header: l2.MakeHeader(l2.Broadcast, l2.MAC{2}, taptest.TestType), L3: [][]byte{make([]byte, n)}}
		if err := newPacketFar(t, d.link).Send(fr); err != nil {
			t.Fatal(err)
		}
		if m := <-got; m != n {
			t.Errorf("%d bytes, want %d", m, n)
		}
	}
	send(1500)
	for _, mtu := range []int{tap.MaxMTU, 68, 9000} {
		if err := netlink.LinkSetMTU(d.link, mtu); err != nil {
			t.Fatal(err)
		}
		send(mtu)
	}
	if err := netlink.LinkSetDown(d.link); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetHardwareAddr(d.link, []byte{2, 9, 9, 9, 9, 9}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetName(d.link, "eth9"); err != nil {
		t.Fatal(err)
	}
	send(200)

	// Deleted while the reader waits: it ends, and while it waited and since it used no time.
	before := cpuTime(t)
	if err := netlink.LinkDel(d.link); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("Run of a deleted device: no error")
	}
	if used := cpuTime(t) - before; used > 200*time.Millisecond {
		t.Errorf("%v of processor time to notice", used)
	}
	// The namespace can have a new device of that name.
	again := newDevice(t, "eth0", 1500, "Best")
	if n := again.Output(nil); n != 0 || again.State() != tap.Up {
		t.Errorf("new device: state %v", again.State())
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

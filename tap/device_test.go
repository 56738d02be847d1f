package tap_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/taptest"
)

func socketDevice(tb testing.TB, vnet bool, o tap.Options) (*tap.Device, *taptest.SocketFar) {
	tb.Helper()
	f, info, far, err := taptest.Socket("eth0", 1500, vnet)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := tap.Open(f, info, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close(); far.Close() })
	return d, far
}

// HC-01: frames that are no frames are counted, each once, and what follows them arrives.
func TestRunts(t *testing.T) {
	for _, vnet := range []bool{true, false} {
		t.Run(fmt.Sprintf("VNet=%v", vnet), func(t *testing.T) {
			drops := new(drop.Counters)
			d, far := socketDevice(t, vnet, tap.Options{Drops: drops})
			head := l2.HeaderLen
			if vnet {
				head += l2.VNetLen
			}
			got := make(chan int, 10)
			done := make(chan error)
			go func() {
				done <- d.Run(func(fs []l2.Frame) {
					for i := range fs {
						got <- fs[i].Len()
					}
				}, nil)
			}()
			const each = 700
			for range each {
				for n := 1; n < head; n++ {
					if err := far.SendRaw(make([]byte, n)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, n := range []int{0, 1} { // a header and nothing, a header and one byte
				if err := far.SendRaw(make([]byte, head+n)); err != nil {
					t.Fatal(err)
				}
				if m := <-got; m != n {
					t.Errorf("%d bytes of packet, want %d", m, n)
				}
			}
			if n := drops.Get(drop.FrameRunt); n != uint64(each*(head-1)) {
				t.Errorf("%d runts counted, want %d", n, each*(head-1))
			}
			d.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVNetCrosses(t *testing.T) {
	d, far := socketDevice(t, true, tap.Options{})
	v := l2.VNet{Flags: l2.VNetNeedsCsum, GSOType: l2.GSOTCPv4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	out := l2.Frame{VNet: v, Header: l2.MakeHeader(l2.MAC{2}, l2.MAC{4}, l2.TypeIPv4), L3: [][]byte{make([]byte, 40), make([]byte, 60000)}}
	if d.Output([]l2.Frame{out}) != 1 {
		t.Fatal("not sent")
	}
	f, err := far.Recv()
	if err != nil || f.VNet != v || f.Len() != 60040 {
		t.Errorf("%+v, %d bytes, %v", f.VNet, f.Len(), err)
	}
	go func() {
		if err := far.Send(f); err != nil {
			t.Error(err)
		}
	}()
	err = d.Run(func(fs []l2.Frame) {
		if fs[0].VNet != v || fs[0].Len() != 60040 {
			t.Errorf("%+v, %d bytes", fs[0].VNet, fs[0].Len())
		}
		d.Close()
	}, nil)
	if err != nil {
		t.Error(err)
	}
}

// HC-29 on the way out: in plain mode a VNet that lies is a counted drop.
func TestPlainRefusesLies(t *testing.T) {
	drops := new(drop.Counters)
	d, _ := socketDevice(t, false, tap.Options{Drops: drops})
	ip := make([]byte, 3000)
	for i, v := range []l2.VNet{
		{Flags: l2.VNetNeedsCsum, GSOType: l2.GSOTCPv4, GSOSize: 0, CsumStart: 34, CsumOffset: 16},
		{Flags: l2.VNetNeedsCsum, GSOType: l2.GSOTCPv4, GSOSize: 1, CsumStart: 34, CsumOffset: 16},
		{Flags: l2.VNetNeedsCsum, GSOType: 77, GSOSize: 1000, CsumStart: 34, CsumOffset: 16},
		{Flags: l2.VNetNeedsCsum, CsumStart: 65000, CsumOffset: 16},
	} {
		f := l2.Frame{VNet: v, Header: l2.MakeHeader(l2.MAC{2}, l2.MAC{4}, l2.TypeIPv4), L3: [][]byte{ip}}
		if n := d.Output([]l2.Frame{f}); n != 0 || drops.Get(drop.VNetBad) != uint64(i+1) {
			t.Errorf("%+v: sent %d, drops %v", v, n, drops.Snapshot())
		}
	}
}

func TestStateLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	d, far := socketDevice(t, true, tap.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	far.Close()
	f := l2.Frame{L3: [][]byte{{1}}}
	for range 5 {
		d.Output([]l2.Frame{f})
	}
	if err := d.Run(func([]l2.Frame) {}, nil); !errors.Is(err, tap.ErrGone) {
		t.Errorf("Run: %v", err)
	}
	if n := strings.Count(log.String(), "to=gone"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	if err := d.Run(func([]l2.Frame) {}, nil); err == nil || errors.Is(err, tap.ErrGone) {
		t.Errorf("second Run: %v", err)
	}
}

func TestOpenRefusesBlocking(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := tap.Open(f, tap.Info{Name: "eth0"}, tap.Options{}); err == nil {
		t.Error("a descriptor that cannot be polled was accepted")
	}
}

func TestInfoJSON(t *testing.T) {
	i := tap.Info{Name: "eth0", VNet: true, Offloads: tap.OffloadAll, MTU: 1500}
	b, err := json.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	var j tap.Info
	if err := json.Unmarshal(b, &j); err != nil || j != i {
		t.Errorf("%s became %+v, %v", b, j, err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		name string
		mtu  int
		mac  l2.MAC
		want string
	}{
		{"", 1500, l2.MAC{}, "1 to 15 bytes"},
		{"a-name-of-16-byt", 1500, l2.MAC{}, "1 to 15 bytes"},
		{"tap%d", 1500, l2.MAC{}, "percent"},
		{"a/b", 1500, l2.MAC{}, "slash"},
		{"eth0", 67, l2.MAC{}, "MTU 67 is not between 68 and 65521"},
		{"eth0", 65522, l2.MAC{}, "MTU 65522 is not between"},
		{"eth0", 1500, l2.MAC{1}, "group address"},
	} {
		_, _, err := tap.Create(c.name, c.mtu, c.mac)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Create(%q, %d, %v): %v, want %q", c.name, c.mtu, c.mac, err, c.want)
		}
	}
	for errno, want := range map[syscall.Errno]string{
		syscall.EACCES: `open /dev/net/tun: permission denied; run "chmod 666 /dev/net/tun" as root`,
		syscall.ENOENT: `open /dev/net/tun: no such file or directory; run "modprobe tun" as root`,
		syscall.EPERM:  "open /dev/net/tun: operation not permitted; the device cgroup forbids it: allow character device 10:200",
	} {
		if err := tap.OpenError(errno); err.Error() != want || !errors.Is(err, errno) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// raceDetector: sync.Pool forgets at random then, so allocations say nothing.
var raceDetector bool

// Forwarding a frame allocates nothing, in either mode, whole or cut.
func TestAllocs(t *testing.T) {
	for _, vnet := range []bool{true, false} {
		d, far := socketDevice(t, vnet, tap.Options{})
		// A mirror: what the device reads it writes back.
		done := make(chan error)
		go func() { done <- d.Run(func(fs []l2.Frame) { d.Output(fs) }, nil) }()
		for _, n := range []int{100, 30000} {
			b := make([]byte, l2.VNetLen+l2.HeaderLen+n)
			if a := testing.AllocsPerRun(200, func() {
				if err := far.SendRaw(b); err != nil {
					t.Fatal(err)
				}
				if _, err := far.RecvRaw(b); err != nil {
					t.Fatal(err)
				}
			}); a > 0.5 && !raceDetector { // the pool may be emptied by a collection
				t.Errorf("VNet %v, %d bytes: %v allocations per frame, want 0", vnet, n, a)
			}
		}
		d.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// RX-12: devices that wait share their memory: thousands of silent containers have that of a few.
func TestSilentDevicesShareMemory(t *testing.T) {
	const devices = 200
	var blocks atomic.Int32
	alloc := func(n int) *l2.Buf { blocks.Add(1); return l2.HeapAllocator(n) }
	got := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	for range devices {
		d, far := socketDevice(t, true, tap.Options{Alloc: alloc})
		wg.Go(func() { d.Run(func([]l2.Frame) { got <- struct{}{} }, nil) })
		defer d.Close()
		if err := far.SendRaw(make([]byte, l2.VNetLen+l2.HeaderLen+100)); err != nil {
			t.Fatal(err)
		}
		<-got
	}
	if n := blocks.Load(); n > devices/4 && !raceDetector { // a collection may empty the pool
		t.Errorf("%d devices have %d blocks", devices, n)
	}
}

package stack_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap/taptest"
)

// numbered is Network number i of many.
func numbered(i int) spec.Network {
	n := spec.Network{
		ID: fmt.Sprint("id", i), Name: fmt.Sprint("net", i), MTU: 1500,
		Subnet4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Gateway4: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}),
		GatewayMAC: l2.MAC{2, 0x42, 10, byte(i >> 8), byte(i), 1},
	}
	n.DNS4 = n.Gateway4
	return n
}

// memory is what the process's heap and goroutines hold.
func memory() uint64 {
	runtime.GC()
	runtime.GC() // what has a finalizer or lies in a pool goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// RX-11: what a Network costs that nobody uses, in memory; and that nothing of it stays. The bench times it.
func TestRX11ManyNetworks(t *testing.T) {
	const n = 200
	h := stack.NewHost(stack.HostOptions{})
	before, goroutines, start := memory(), runtime.NumGoroutine(), time.Now()
	var all []*stack.Network
	for i := range n {
		nw, err := h.New(numbered(i), stack.Options{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, nw)
		if err := h.Reserve(numbered(i).Subnet4); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start) / n
	each := int64(memory()-before) / n
	perNet := float64(runtime.NumGoroutine()-goroutines) / n
	t.Logf("a network: %v to make, %d KiB, %.1f goroutines", took, each>>10, perNet)
	if each > 24<<10 || perNet > 0.5 {
		t.Errorf("an idle network holds %d KiB and %.1f goroutines, want 24 at most and none", each>>10, perNet)
	}
	for _, nw := range all {
		if err := nw.Close(); err != nil {
			t.Error(err)
		}
	}
	all = nil
	if left := int64(memory()) - int64(before); left > 1<<20 {
		t.Errorf("%d KiB stay", left>>10)
	}
}

// RX-12: an Endpoint is attached to a Network of two thousand. The bench times it.
func TestRX12AttachToMany(t *testing.T) {
	const n = 2000
	nw := numbered(0)
	nw.Subnet4 = netip.MustParsePrefix("10.0.0.0/16")
	net, err := stack.NewHost(stack.HostOptions{}).New(nw, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range n {
		id := fmt.Sprint("c", i)
		f, info, far, err := taptest.Socket(id, 1500, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		ep := spec.Endpoint{ID: id, Interface: "eth0", MAC: l2.MAC{2, 1}, Strict: true, Names: []string{id, id + "-short", id + "-host", "all"}}
		binary.BigEndian.PutUint32(ep.MAC[2:], uint32(i))
		ep.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte((i + 2) >> 8), byte(i + 2)})}
		start := time.Now()
		if err := net.Attach(ep, f, info); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	start := time.Now()
	if err := net.Close(); err != nil {
		t.Error(err)
	}
	closing := time.Since(start)
	slices.Sort(took)
	t.Logf("attach p99 %v; close %v", took[n*99/100], closing)
}

// HC-31: a container that does not read costs the others nothing.
func TestHC31DeafNeighbour(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), nil)
	deaf := packettest.NewStation(100)
	f, info, far, err := taptest.Socket("deaf", testNet.MTU, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if err := n.Attach(endpointSpec("deaf", deaf), f, info); err != nil {
		t.Fatal(err)
	}
	b, c := attach(t, n, "b", 101, true), attach(t, n, "c", 102, true)
	full := packettest.Frame(b.MAC, deaf.MAC, packettest.UDP(netip.AddrPortFrom(b.IP4, 1), netip.AddrPortFrom(deaf.IP4, 1), make([]byte, 1400)))
	for i := range uint16(300) {
		for range 10 {
			b.send(full)
		}
		b.send(packettest.Frame(b.MAC, c.MAC, packettest.Echo(b.IP4, c.IP4, i+1, 1, nil)))
		c.next("ping past the deaf one", func(_ l2.Frame, p packettest.Decoded) bool { return p.Proto == packettest.ProtoICMP && p.Kind == 8 })
	}
	if n.Stats().Drops["tap-full"] == 0 {
		t.Error("the deaf container was not full: nothing has been shown")
	}
}

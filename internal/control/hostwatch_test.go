package control

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/internal/proctest"
)

// FT-16, FT-17: an address and a route that come and go are noticed, a burst once or twice, in a
// network namespace that has nothing at first.
func TestHostWatch(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := proctest.Again(proctest.Network, netnsRole)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(out); s.Scan(); {
		lines = append(lines, s.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %q", err, lines)
	}
	if got := strings.Join(lines, " "); got != "address route burst stopped" {
		t.Errorf("noticed: %s", got)
	}
}

// netnsMain changes the addresses and routes of its own network namespace and says what was noticed.
func netnsMain() {
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervisor{ctx: ctx, log: slog.New(slog.DiscardHandler), changed: make(chan struct{}, 1)}
	w, err := openHostWatch()
	check(err)
	var wg sync.WaitGroup
	wg.Go(func() { check(s.followHost(w)); w.close() })

	lo, err := netlink.LinkByName("lo")
	check(err)
	check(netlink.LinkSetUp(lo))
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}
	check(netlink.AddrAdd(lo, addr))
	<-s.changed
	fmt.Println("address")
	_, dst, _ := net.ParseCIDR("198.51.100.0/24")
	check(netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst}))
	<-s.changed
	fmt.Println("route")
	for i := range 50 {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, byte(10+i)), Mask: net.CIDRMask(32, 32)}}
		check(netlink.AddrAdd(lo, a))
		check(netlink.AddrDel(lo, a))
	}
	<-s.changed
	fmt.Println("burst")
	cancel()
	wg.Wait()
	fmt.Println("stopped")
}

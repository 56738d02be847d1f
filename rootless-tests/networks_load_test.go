package rootlesstests

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// One container of a network does its worst; another goes about its business. How fast it does is for the benches:
// here it must get everything, and nothing may take as long as a lost packet that is sent again does.

// bound is what one small thing may take on a busy machine.
const bound = 5 * time.Second

// neighboursOf starts a noisy container and a quiet one in one network.
func neighboursOf(t *testing.T, d *rig.Daemon) (noisy, quiet *rig.Sandbox) {
	t.Helper()
	d.Must(t, "usernet", "network", "create", "n")
	return d.Run(t, "--name", "noisy", "--network", "n"), d.Run(t, "--name", "quiet", "--network", "n")
}

// meanwhile runs work on n goroutines until the returned function is called, which waits for them.
func meanwhile(t *testing.T, n int, work func(ctx context.Context)) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				work(ctx)
			}
		})
	}
	end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(end)
	return end
}

// RX-16: 16 bulk streams of one container, to the outside and to the other container, and small calls of the other.
func TestRX16(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	noisy, quiet := neighboursOf(t, d)
	var bulk sync.WaitGroup
	// Before end and bulk.Wait: closing the servers ends writers that are stuck.
	swallow := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }
	outside := serveTCP(t, r.X2, rig.X2v4, swallow)
	accept(t, quiet.ListenTCP(t, at(netip.IPv4Unspecified(), 9)), swallow)
	inside := at(addrIn(t, d, "quiet", "n"), 9)
	var conns []net.Conn
	for i := range 16 {
		c := noisy.DialTCP(t, []netip.AddrPort{outside, inside}[i%2])
		conns = append(conns, c)
		bulk.Go(func() {
			_ = c.SetDeadline(time.Time{})     // it is closed
			_, _ = io.Copy(c, newStream(1e12)) // until it is closed
		})
	}
	rpc := quiet.DialTCP(t, serveEcho(t, r.X1, rig.X1v4))
	worst := time.Duration(0)
	for range 50 {
		start := time.Now()
		wantEchoed(t, rpc, strings.Repeat("x", 64))
		worst = max(worst, time.Since(start))
	}
	for _, c := range conns {
		c.Close()
	}
	bulk.Wait()
	t.Logf("worst of 50 calls: %v", worst)
	if worst > bound {
		t.Errorf("a call took %v beside 16 streams of another container", worst)
	}
}

// HC-32: one container uses up what there is of answers to ICMP and of UDP flows; the other has its own.
func TestHC32(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	noisy, quiet := neighboursOf(t, d)
	gw, own := gatewayOf(t, noisy.Node, "-4"), addrIn(t, d, "noisy", "n")
	ping(t, noisy.Node, gw.String())
	var source atomic.Uint32
	link, mac := noisy.OpenPacket(t, rig.DevEth0), neighbours(t, noisy.Node)[gw]
	end := meanwhile(t, 1, func(context.Context) {
		for _, p := range [][]byte{
			packettest.Echo(own, gw, 1, 1, nil),                                           // answers
			packettest.UDP(at(own, 9), at(gw, 9), nil),                                    // port unreachable
			packettest.TCP(at(own, 9), at(gw, 9), packettest.ACK, 1, 1, nil),              // resets
			packettest.UDP(at(own, uint16(source.Add(1))), at(rig.Nowhere4, 9), []byte{}), // flows
		} {
			_ = link.Send(packettest.Bytes(packettest.Frame(link.MAC, mac, p))) // the device's queue may be full
		}
	})
	defer end()
	echo := serveUDP(t, r.X1, rig.X1v4)
	for i := range 20 {
		out, code, err := quiet.Node.Exec(rig.Within(t, rig.Patience), "", "ping", "-n", "-c", "1", "-W", "5", gw.String())
		if err != nil || code != 0 {
			t.Errorf("echo request %d of the quiet one: %v\n%s", i, err, out)
		}
		if got := exchange(t, quiet.DialUDP(t, echo), []byte("a flow of its own")); string(got) != "a flow of its own" {
			t.Errorf("datagram %d: %q", i, got)
		}
	}
	// Its refusals come at once: they are not of the budget that the other has used up.
	for i := range 20 {
		start := time.Now()
		if c, err := quiet.Dial(rig.Within(t, rig.Patience), "tcp", at(gw, 9)); err == nil {
			c.Close()
			t.Error("port 9 of the gateway is open")
		}
		if took := time.Since(start); took > bound {
			t.Errorf("refusal %d took %v", i, took)
		}
	}
}

// DN-19: one container asks as fast as it can; the other gets its answers.
func TestDN19(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	noisy, quiet := neighboursOf(t, d)
	server := netip.MustParseAddrPort("127.0.0.11:53")
	q, err := question("quiet").Pack()
	if err != nil {
		t.Fatal(err)
	}
	far, err := question(unique()).Pack() // forwarded to nobody who answers
	if err != nil {
		t.Fatal(err)
	}
	flood := noisy.DialUDP(t, server)
	if err := flood.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	sent := 0
	end := meanwhile(t, 1, func(context.Context) {
		_, _ = flood.Write(q) // full queues are the point
		_, _ = flood.Write(far)
		sent += 2
	})
	const asked = 200
	lost, worst := 0, time.Duration(0)
	for range asked {
		start := time.Now()
		a, err := ask(rig.Within(t, bound), quiet.Node, "udp", server, question("noisy"))
		switch {
		case err != nil:
			lost++
		case a.Rcode != dns.RcodeSuccess || len(a.Answer) != 1:
			t.Fatalf("the answer is %v", a)
		}
		worst = max(worst, time.Since(start))
	}
	end()
	t.Logf("%d questions of the noisy one; of %d of the quiet one %d lost, the slowest took %v", sent, asked, lost, worst)
	if lost > asked/200 {
		t.Errorf("%d of %d questions were lost beside %d of another container", lost, asked, sent)
	}
}

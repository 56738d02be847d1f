package rootlesstests

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// impairedLink is a wire between H and X1 on which packets are delayed, lost and swapped: two TAPs, and a goroutine for each
// direction that carries frames from one to the other. (The kernels that tests run on have no netem.)
type impairedLink struct {
	delay      time.Duration // of each direction
	loss, swap float64
}

// impairedX1 is X1's address on the link, and impairedH that of H.
var impairedH, impairedX1 = netip.MustParsePrefix("192.0.2.1/30"), netip.MustParsePrefix("192.0.2.2/30")

// lay makes the link, until the test ends. The test is not parallel.
func (l impairedLink) lay(t *testing.T, r *rig.Rig) {
	t.Helper()
	near, far := l.device(t, r.H, "near"), l.device(t, r.H, "far")
	x1 := strings.TrimSpace(r.X1.Run(t, "sh", "-c", "echo $PPID")) // the node itself
	r.H.Run(t, "ip", "link", "set", "far", "netns", x1)
	for _, end := range []struct {
		node *rig.Node
		dev  string
		addr netip.Prefix
	}{{r.H, "near", impairedH}, {r.X1, "far", impairedX1}} {
		end.node.Run(t, "ip", "addr", "add", end.addr.String(), "dev", end.dev)
		end.node.Run(t, "ip", "link", "set", end.dev, "up")
	}
	var carriers sync.WaitGroup
	for seed, ends := range [][2]*os.File{{near, far}, {far, near}} {
		carriers.Go(func() { l.carry(rand.New(rand.NewPCG(uint64(seed), 1)), ends[0], ends[1]) })
	}
	t.Cleanup(func() {
		near.Close() // the devices are gone with them
		far.Close()
		carriers.Wait()
	})
}

// device makes a TAP in a node's network namespace, which is the test's too. It lasts as long as the file.
func (l impairedLink) device(t *testing.T, n *rig.Node, name string) *os.File {
	t.Helper()
	n.Run(t, "ip", "tuntap", "add", "dev", name, "mode", "tap", "user", strconv.Itoa(os.Getuid()))
	fd, err := sys.OpenTun()
	if err != nil {
		t.Fatal(err)
	}
	if _, err = sys.TunAttach(fd, name, 0); err == nil {
		err = sys.TunClearPersist(fd)
	}
	if err != nil {
		sys.CloseFD(fd)
		t.Fatalf("attach to %s: %v", name, err)
	}
	return os.NewFile(uintptr(fd), name)
}

// carry carries frames until either end is closed.
func (l impairedLink) carry(rng *rand.Rand, from, to *os.File) {
	type sent struct {
		frame []byte
		due   time.Time
	}
	wire := make(chan sent, 1<<14)
	var writer sync.WaitGroup
	writer.Go(func() {
		for s := range wire {
			if wait := time.Until(s.due); wait > 0 {
				<-time.After(wait)
			}
			_, _ = to.Write(s.frame) // a device that is not up yet takes none
		}
	})
	defer writer.Wait()
	defer close(wire)
	var held []byte
	put := func(frame []byte) {
		if frame == nil {
			return
		}
		select {
		case wire <- sent{frame, time.Now().Add(l.delay)}:
		default: // full, as any queue may be
		}
	}
	for buf := make([]byte, 1<<16); ; {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil || rng.Float64() < l.loss {
			continue
		}
		frame := bytes.Clone(buf[:n])
		if held == nil && rng.Float64() < l.swap {
			held = frame
			continue
		}
		put(frame)
		put(held)
		held = nil
	}
}

// TestImpairedPath: over a path that loses 1 % of the packets and swaps as many, 10 MiB arrive whole in each direction and never stand
// still for long; and over one of 100 ms likewise.
func TestImpairedPath(t *testing.T) {
	const size = 10 << 20
	// stall is for how long a stream may stand still.
	const stall = rig.Busy * 3 * time.Second
	r := rig.Start(t)
	sb := r.Run(t)
	for _, tc := range []struct {
		name string
		link impairedLink
	}{
		{"lossy", impairedLink{loss: 0.01, swap: 0.01}},
		{"long", impairedLink{delay: 50 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.link.lay(t, r)
			l := r.X1.ListenTCP(t, netip.AddrPortFrom(impairedX1.Addr(), 0))
			for _, down := range []bool{false, true} {
				c := sb.DialTCP(t, l.Addr().(*net.TCPAddr).AddrPort())
				s, err := l.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				from, to := c, s
				if down {
					from, to = s, c
				}
				start := time.Now()
				longest, err := pour(from, to, size, stall)
				s.Close()
				c.Close()
				if err != nil {
					t.Fatalf("down %v: %v", down, err)
				}
				t.Logf("down %v: %v, %v without anything", down, time.Since(start).Round(time.Millisecond), longest.Round(time.Millisecond))
			}
		})
	}
}

// pour sends n bytes and compares what arrives. It returns the longest time for which nothing came, which is less than stall.
func pour(from, to *net.TCPConn, n int, stall time.Duration) (longest time.Duration, err error) {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- errors.Join(err, from.CloseWrite())
	}()
	sum, buf, got := sha256.New(), make([]byte, 64<<10), 0
	for last := time.Now(); ; {
		to.SetReadDeadline(last.Add(stall))
		k, err := to.Read(buf)
		sum.Write(buf[:k])
		got += k
		longest = max(longest, time.Since(last))
		last = time.Now()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			from.Close()
			<-sent
			return longest, fmt.Errorf("%d of %d bytes arrived: %w", got, n, err)
		}
	}
	if err := <-sent; err != nil {
		return longest, err
	}
	if want := sha256.Sum256(data); got != n || !bytes.Equal(sum.Sum(nil), want[:]) {
		return longest, fmt.Errorf("%d bytes arrived, and they differ from the %d that were sent", got, n)
	}
	return longest, nil
}

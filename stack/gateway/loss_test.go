package gateway

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

const (
	// lossSize is what has to arrive over a wire that loses 1 % of its packets and swaps as many.
	lossSize = 10 << 20
	lossRate = 0.01
	swapRate = 0.01
	// stallPatience is ten times the 3 s for which a stream may stand still: the machine may be busy. BenchmarkLoss tells how long it is.
	stallPatience = 30 * time.Second
)

// lossy makes a world whose wire loses and swaps packets in both directions, and returns a connection across it. Both sides
// miss an ACK after rto at the earliest.
func lossy(t testing.TB, seed uint64, down bool, rto time.Duration) (from, to net.Conn) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	w.asLinux()
	w.setMinRTO(w.c, rto)
	w.setMinRTO(stackOf(t, w.gw), rto)
	w.toContainer.impair(seed, lossRate, swapRate)
	w.toGateway.impair(seed+1, lossRate, swapRate)
	c, h := pair(t, w, o, outside4)
	if down {
		return h, c
	}
	return c, h
}

// closeWriter is either end of a connection.
type closeWriter interface{ CloseWrite() error }

// arrive sends lossSize bytes and reads them, and returns the longest time for which nothing came.
func arrive(t testing.TB, from, to net.Conn) (stall time.Duration) {
	t.Helper()
	from.SetDeadline(time.Time{})
	to.SetDeadline(time.Time{})
	data := make([]byte, lossSize)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		if err == nil {
			err = from.(closeWriter).CloseWrite()
		}
		sent <- err
	}()
	sum, buf, n := sha256.New(), make([]byte, 64<<10), 0
	for last := time.Now(); ; {
		to.SetReadDeadline(time.Now().Add(stallPatience))
		k, err := to.Read(buf)
		sum.Write(buf[:k])
		n += k
		stall = max(stall, time.Since(last))
		last = time.Now()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%d of %d bytes arrived, then: %v", n, len(data), err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatalf("write: %v", err)
	}
	if want := sha256.Sum256(data); n != len(data) || !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Fatalf("%d bytes arrived, and they differ from the %d that were sent", n, len(data))
	}
	return stall
}

// TestLoss: with packets lost and swapped in both directions everything arrives whole, and without standing still.
func TestLoss(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/%d", map[bool]string{false: "up", true: "down"}[down], seed), func(t *testing.T) {
				t.Parallel()
				from, to := lossy(t, seed, down, minRTO/10) // most of the time is spent waiting for it
				arrive(t, from, to)
			})
		}
	}
}

// BenchmarkLoss tells how long 10 MiB take over a wire that loses 1 % and swaps 1 %, and the longest time for which nothing came.
func BenchmarkLoss(b *testing.B) {
	for _, down := range []bool{false, true} {
		b.Run(map[bool]string{false: "up", true: "down"}[down], func(b *testing.B) {
			b.SetBytes(lossSize)
			var longest time.Duration
			for i := range b.N {
				b.StopTimer()
				from, to := lossy(b, uint64(i), down, minRTO)
				b.StartTimer()
				longest = max(longest, arrive(b, from, to))
			}
			b.ReportMetric(longest.Seconds()*1000, "ms-stall")
		})
	}
}

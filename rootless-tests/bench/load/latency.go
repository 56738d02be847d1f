package load

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxConnects bounds the connections of one measurement: the ports of closed ones stay in TIME_WAIT for a
// minute, and there are 28 000.
const maxConnects = 3000

// roundTrips sends one byte and waits for it, again and again for window: microseconds each.
func roundTrips(to netip.AddrPort, window time.Duration) ([]float64, error) {
	c, err := dial(unix.SOCK_STREAM, to)
	if err != nil {
		return nil, err
	}
	defer c.close()
	b := []byte{cmdEcho}
	// The first one also measures how long the path takes to connect.
	if err := pingPong(c, b); err != nil {
		return nil, err
	}
	var us []float64
	for end := time.Now().Add(window); ; {
		start := time.Now()
		if err := pingPong(c, b); err != nil {
			return nil, err
		}
		now := time.Now()
		us = append(us, micros(now.Sub(start)))
		if now.After(end) {
			return us, nil
		}
	}
}

func pingPong(c socket, b []byte) error {
	if err := c.write(b); err != nil {
		return err
	}
	return c.readFull(b)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// connects makes connection after connection for window, each with one round trip, from parallel threads.
// It returns the microseconds of each and how long all took.
func connects(to netip.AddrPort, parallel int, window time.Duration) (us []float64, elapsed time.Duration, err error) {
	var wg sync.WaitGroup
	each, errs := make([][]float64, parallel), make([]error, parallel)
	start := time.Now()
	for i := range parallel {
		wg.Go(func() {
			for end := start.Add(window); ; {
				begin := time.Now()
				if errs[i] = connectOnce(to); errs[i] != nil {
					return
				}
				now := time.Now()
				each[i] = append(each[i], micros(now.Sub(begin)))
				if !now.Before(end) || len(each[i]) >= maxConnects/parallel {
					return
				}
			}
		})
	}
	wg.Wait()
	elapsed = time.Since(start)
	for _, v := range each {
		us = append(us, v...)
	}
	return us, elapsed, errors.Join(errs...)
}

func connectOnce(to netip.AddrPort) error {
	c, err := dial(unix.SOCK_STREAM, to)
	if err != nil {
		return err
	}
	defer c.close()
	return pingPong(c, []byte{cmdEcho})
}

// idleDialers is how many connections are opened at once: enough to hide a path's latency, few enough for any
// listen queue on the way.
const idleDialers = 8

// openIdle opens n connections and keeps them. It returns those that it got when the first one fails.
func openIdle(to netip.AddrPort, n int) (kept []socket, err error) {
	var mu sync.Mutex // guards kept and err
	var wg sync.WaitGroup
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		n--
		return n >= 0 && err == nil
	}
	for range idleDialers {
		wg.Go(func() {
			for next() {
				c, e := dial(unix.SOCK_STREAM, to)
				if e == nil {
					e = pingPong(c, []byte{cmdIdle})
				}
				mu.Lock()
				if e == nil {
					kept = append(kept, c)
				} else {
					err = e
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return kept, err
}

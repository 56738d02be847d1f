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

// earlyFor is for how long after a pause the kernel may keep all who take part on one CPU: it does while that CPU has not been busy
// on the average of the last 32 ms or so (docs/PERFORMANCE.md has trips of 45 µs for 60 ms, and of 80 to 120 from then on).
const earlyFor = 50 * time.Millisecond

// trips are the microseconds of round trips that follow each other without a pause.
type trips struct {
	early []float64 // those of the first earlyFor
	us    []float64 // those of the window, after the warm-up
}

// tripClock sorts trips by when they began.
type tripClock struct {
	begin, warm, end time.Time
}

func startTrips(warm, window time.Duration) tripClock {
	begin := time.Now()
	return tripClock{begin, begin.Add(warm), begin.Add(warm + window)}
}

// add counts a trip and reports whether it was the last. There is always one in the window.
func (k tripClock) add(t *trips, start, now time.Time) (over bool) {
	us := micros(now.Sub(start))
	if start.Sub(k.begin) < earlyFor {
		t.early = append(t.early, us)
	}
	if start.Before(k.warm) {
		return false
	}
	t.us = append(t.us, us)
	return k.over(now)
}

func (k tripClock) over(now time.Time) bool { return !now.Before(k.end) }

// roundTrips sends one byte and waits for it, again and again for warm and then window.
func roundTrips(to netip.AddrPort, warm, window time.Duration) (t trips, err error) {
	c, err := dial(unix.SOCK_STREAM, to)
	if err != nil {
		return trips{}, err
	}
	defer c.close()
	b := []byte{cmdEcho}
	// The first one also measures how long the path takes to connect.
	if err := pingPong(c, b); err != nil {
		return trips{}, err
	}
	clock := startTrips(warm, window)
	for {
		start := time.Now()
		if err := pingPong(c, b); err != nil {
			return trips{}, err
		}
		if clock.add(&t, start, time.Now()) {
			return t, nil
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

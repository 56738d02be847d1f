package load

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// datagramTimeout is when a datagram counts as lost: a thousand times the slowest path's round trip. Tests, which may be
// held up for longer, change it.
var datagramTimeout = 200 * time.Millisecond

// udpRoundTrips sends one byte and waits for it, again and again for warm and then window: those that came back, and how many of all did not.
func udpRoundTrips(to netip.AddrPort, warm, window time.Duration) (t trips, lost int, err error) {
	s, err := dial(unix.SOCK_DGRAM, to)
	if err != nil {
		return trips{}, 0, err
	}
	defer s.close()
	if err := s.setPatience(datagramTimeout); err != nil {
		return trips{}, 0, err
	}
	var b [1]byte
	clock := startTrips(warm, window)
	for over := false; !over; {
		start := time.Now()
		if err := s.write(b[:]); err != nil {
			return trips{}, lost, fmt.Errorf("send datagram: %w", err)
		}
		switch _, err := s.read(b[:]); {
		case err == nil:
			over = clock.add(&t, start, time.Now())
		case errors.Is(err, errTimeout):
			lost++
			over = clock.over(time.Now())
		default:
			return trips{}, lost, fmt.Errorf("receive datagram: %w", err)
		}
	}
	if len(t.us) == 0 {
		return trips{}, lost, errors.New("no datagram came back")
	}
	return t, lost, nil
}

// flood sends datagrams of size bytes for window, one for each system call: perSecond of them, in a burst each
// millisecond as iperf3 does, or as fast as the kernel takes them when that is 0.
func flood(to netip.AddrPort, size, perSecond int, window time.Duration) (sent uint64, elapsed time.Duration, err error) {
	s, err := dial(unix.SOCK_DGRAM, to)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	b := make([]byte, size)
	start := time.Now()
	for elapsed < window {
		if perSecond > 0 && float64(sent) >= elapsed.Seconds()*float64(perSecond) {
			time.Sleep(time.Millisecond)
			elapsed = time.Since(start)
			continue
		}
		// A full queue is the path's loss; anything else would make the figure wrong.
		for range 16 { // the clock is read once for each
			switch _, err := unix.Write(int(s), b); {
			case err == nil, errors.Is(err, unix.ENOBUFS):
				sent++
			case errors.Is(err, unix.EINTR):
			default:
				return sent, elapsed, fmt.Errorf("send datagram: %w", err)
			}
		}
		elapsed = time.Since(start)
	}
	return sent, elapsed, nil
}

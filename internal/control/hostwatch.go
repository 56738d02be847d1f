package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settleTime gathers a burst into one change: an interface that goes down takes its addresses and
	// routes with it, one message each. FT-16 allows two seconds.
	settleTime = 200 * time.Millisecond
	// rewatchTime is the pause before a broken watch is set up again.
	rewatchTime = time.Second
)

var errWatchEnded = errors.New("watch host: the kernel's messages ended")

// hostWatch follows the addresses and routes of the host by rtnetlink's groups, which needs no
// privilege. done ends the library's readers, which then close the channels.
type hostWatch struct {
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	broken chan error
	done   chan struct{}
}

func openHostWatch() (*hostWatch, error) {
	w := &hostWatch{
		addrs: make(chan netlink.AddrUpdate), routes: make(chan netlink.RouteUpdate),
		broken: make(chan error, 1), done: make(chan struct{}),
	}
	report := func(err error) {
		select {
		case w.broken <- err:
		default: // one is enough to begin anew
		}
	}
	if err := netlink.AddrSubscribeWithOptions(w.addrs, w.done, netlink.AddrSubscribeOptions{ErrorCallback: report}); err != nil {
		return nil, fmt.Errorf("watch host addresses: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(w.routes, w.done, netlink.RouteSubscribeOptions{ErrorCallback: report}); err != nil {
		close(w.routes) // no reader will
		w.close()
		return nil, fmt.Errorf("watch host routes: %w", err)
	}
	return w, nil
}

// close waits for the library's readers.
func (w *hostWatch) close() {
	close(w.done)
	for range w.addrs {
	}
	for range w.routes {
	}
}

// next waits for something that matters. false means that ctx has ended.
func (w *hostWatch) next(ctx context.Context) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case err := <-w.broken:
			return false, fmt.Errorf("watch host: %w", err)
		case _, ok := <-w.addrs:
			if !ok {
				return false, errWatchEnded
			}
			return true, nil
		case r, ok := <-w.routes:
			switch {
			case !ok:
				return false, errWatchEnded
			case r.Table == unix.RT_TABLE_LOCAL:
				// Follows from an address, which has its own message.
			default:
				return true, nil
			}
		}
	}
}

// watchHost puts an element into changed after each change of the host, until ctx ends. A watch
// that breaks (its buffer overflows in a storm of changes) is itself a change.
func (s *supervisor) watchHost() {
	for s.ctx.Err() == nil {
		w, err := openHostWatch()
		if err == nil {
			err = s.followHost(w)
			w.close()
		}
		if err != nil {
			s.log.Warn("host changes may go unnoticed", "err", err, "retry", rewatchTime)
			wait(s.ctx, rewatchTime)
			s.noteChange()
		}
	}
}

func (s *supervisor) followHost(w *hostWatch) error {
	for {
		if ok, err := w.next(s.ctx); !ok {
			return err
		}
		settled, cancel := context.WithTimeout(s.ctx, settleTime)
		for {
			if ok, err := w.next(settled); !ok {
				cancel()
				if err != nil {
					return err
				}
				break
			}
		}
		s.noteChange()
	}
}

func (s *supervisor) noteChange() {
	select {
	case s.changed <- struct{}{}:
	default: // one that the supervisor has not seen yet says the same
	}
}

// wait returns after d or with ctx.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

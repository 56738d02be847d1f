package cnm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
)

// Which host ports are ours. The kernel decides whether a port is free; the table only knows, when it is not,
// whether one of our own sandboxes has it, because Docker says that in other words than that another
// program has it (DB7).

// portTable are the sockets of all sandboxes. It takes no other lock.
type portTable struct {
	// mu is held while sockets are bound too, which never blocks: so a port that is found taken by a
	// sandbox of ours is in the table.
	mu    sync.Mutex
	bound map[portKey][]netip.Addr
}

type portKey struct {
	proto portfwd.Proto
	port  uint16
}

// bind binds what specs ask for, all or nothing. The error is in Docker's words.
func (t *portTable) bind(specs []portfwd.Spec) ([]portfwd.Listener, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ls, err := portfwd.Listen(specs, true)
	if err != nil {
		return nil, t.explainLocked(err)
	}
	t.addLocked(ls)
	return ls, nil
}

// adopt enters sockets that are bound already.
func (t *portTable) adopt(ls []portfwd.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(ls)
}

func (t *portTable) addLocked(ls []portfwd.Listener) {
	if t.bound == nil {
		t.bound = make(map[portKey][]netip.Addr)
	}
	for _, l := range ls {
		k := portKey{l.Spec.Proto, l.Spec.HostPort}
		t.bound[k] = append(t.bound[k], l.Spec.HostIP)
	}
}

// release closes sockets.
func (t *portTable) release(ls []portfwd.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range ls {
		l.File.Close()
		k := portKey{l.Spec.Proto, l.Spec.HostPort}
		as := t.bound[k]
		if i := slices.Index(as, l.Spec.HostIP); i >= 0 {
			as = slices.Delete(as, i, i+1)
		}
		if len(as) == 0 {
			delete(t.bound, k)
		} else {
			t.bound[k] = as
		}
	}
}

// explainLocked is Docker's text for a refusal of the kernel.
func (t *portTable) explainLocked(err error) error {
	b, ok := errors.AsType[*portfwd.BindError](err)
	if !ok {
		return fault.New(fault.Invalid, "%w", err)
	}
	s := b.Spec
	if !s.HostIP.IsValid() {
		s.HostIP = netip.IPv4Unspecified()
	}
	host := netip.AddrPortFrom(s.HostIP, s.HostPort)
	switch {
	case !errors.Is(err, syscall.EADDRINUSE):
		return err
	case t.oursLocked(s):
		return fault.New(fault.Internal, "Bind for %s failed: port is already allocated", host)
	}
	return fmt.Errorf("failed to bind host port %s/%s: %w", host, s.Proto, syscall.EADDRINUSE)
}

// oursLocked reports whether a sandbox has a port of s.
func (t *portTable) oursLocked(s portfwd.Spec) bool {
	for port := uint32(s.HostPort); port <= uint32(max(s.HostPort, s.HostPortEnd)); port++ {
		for _, a := range t.bound[portKey{s.Proto, uint16(port)}] {
			if a == s.HostIP || a.Is4() == s.HostIP.Is4() && (a.IsUnspecified() || s.HostIP.IsUnspecified()) {
				return true
			}
		}
	}
	return false
}

// specsOf are what sockets were bound for.
func specsOf(ls []portfwd.Listener) []portfwd.Spec {
	specs := make([]portfwd.Spec, len(ls))
	for i, l := range ls {
		specs[i] = l.Spec
	}
	return specs
}

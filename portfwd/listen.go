package portfwd

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
)

// How a set of Specs becomes a set of sockets:
//
//  1. Nothing is bound before every Spec is known to be valid and no two of them ask for one port.
//  2. Exact ports are bound first, then the first free port of host ranges, then free ports, so that
//     a choice of ours never takes a port that a later Spec names.
//  3. A Spec without an address gets one socket for 0.0.0.0 and one for [::] with the same port.
//     With a free port the kernel picks for the first and may find the second taken; then both
//     are let go and it picks again (FT-24).
//  4. On the first error everything bound so far is closed: all or nothing (LU-08).
//
// Sockets are exact: every IPv6 socket has IPV6_V6ONLY, so 0.0.0.0 opens no IPv6 socket and the
// reverse (LU-09).

// freePortTries bounds step 3. On a host whose ephemeral ports are nine tenths taken in one family,
// 64 picks all fail with a chance of 0.1 %.
const freePortTries = 64

// Listener is a bound socket of a published port, a listening one for TCP.
type Listener struct {
	// Spec says what the socket is: HostIP is an address (0.0.0.0 and [::] are two Listeners), HostPort the
	// real port, HostPortEnd 0.
	Spec Spec
	// File is the socket: non-blocking, close-on-exec, not in this process's poller, the caller's to close.
	File *os.File
}

// Listen binds what specs ask for, or nothing. It is the control side: ordinary sockets of the
// calling process. With ipv6 unset, or on a host without IPv6, a Spec without an address is IPv4 only; an
// IPv6 address that is named is bound regardless. The result is in the order of specs.
//
// Errors name the port and what to do; that of a socket is a *BindError, which wraps the syscall.Errno.
func Listen(specs []Spec, ipv6 bool) ([]Listener, error) {
	if err := checkSpecs(specs); err != nil {
		return nil, err
	}
	order := make([]int, len(specs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(specs[a].freedom(), specs[b].freedom()) })
	bound := make([][]Listener, len(specs))
	for _, i := range order {
		ls, err := listen(specs[i], ipv6)
		if err != nil {
			closeListeners(slices.Concat(bound...))
			return nil, err
		}
		bound[i] = ls
	}
	return slices.Concat(bound...), nil
}

// freedom is 0 for an exact port, 1 for a host range, 2 for a free port.
func (s Spec) freedom() int {
	switch {
	case s.HostPort == 0:
		return 2
	case s.HostPortEnd != 0:
		return 1
	}
	return 0
}

// checkSpecs refuses invalid Specs and two that want the same exact port; the kernel would say
// `address already in use` and leave people to look for another program.
func checkSpecs(specs []Spec) error {
	type port struct {
		proto Proto
		port  uint16
	}
	seen := make(map[port][]Spec)
	for _, s := range specs {
		if err := s.validate(); err != nil {
			return err
		}
		if s.Reverse {
			return fmt.Errorf("publish %s: its socket is the container's to make", s)
		}
		if s.freedom() != 0 {
			continue
		}
		k := port{s.Proto, s.HostPort}
		for _, o := range seen[k] {
			if overlap(s.HostIP, o.HostIP) && (s.Device == o.Device || s.Device == "" || o.Device == "") {
				return fmt.Errorf("publish %s: %s is published already by %s; give each a host port of its own", s, s.host(), o)
			}
		}
		seen[k] = append(seen[k], s)
	}
	return nil
}

// overlap reports whether sockets of two host addresses would exclude each other.
func overlap(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid():
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// listen binds one Spec, trying the ports it leaves open.
func listen(s Spec, ipv6 bool) ([]Listener, error) {
	tries := 1
	switch {
	case s.HostPortEnd != 0:
		tries = int(s.HostPortEnd) - int(s.HostPort) + 1
	case s.HostPort == 0:
		tries = freePortTries
	}
	one := s
	one.HostPortEnd = 0
	for range tries {
		ls, err := listenPort(one, ipv6)
		if err == nil || tries == 1 || !errors.Is(err, syscall.EADDRINUSE) {
			return ls, err
		}
		if one.HostPort != 0 {
			one.HostPort++
		}
	}
	return nil, explain(s, syscall.EADDRINUSE)
}

// listenPort binds one port on each address of s; with HostPort 0 the first address decides the port.
func listenPort(s Spec, ipv6 bool) ([]Listener, error) {
	addrs := []netip.Addr{s.HostIP}
	if !s.HostIP.IsValid() {
		addrs = []netip.Addr{netip.IPv4Unspecified()}
		if ipv6 {
			addrs = append(addrs, netip.IPv6Unspecified())
		}
	}
	var ls []Listener
	for _, a := range addrs {
		want := s
		want.HostIP = a
		f, port, err := openSocket(s.Proto, netip.AddrPortFrom(a, s.HostPort), s.Device)
		if err != nil {
			if len(ls) > 0 && noFamily(err) {
				break // all addresses of a host without IPv6 are the IPv4 ones
			}
			closeListeners(ls)
			return nil, explain(want, err)
		}
		want.HostPort = port
		s.HostPort = port
		ls = append(ls, Listener{Spec: want, File: f})
	}
	return ls, nil
}

// noFamily reports whether the host has no IPv6: not in the kernel, or switched off.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func closeListeners(ls []Listener) {
	for _, l := range ls {
		l.File.Close()
	}
}

// explain says in a person's words why s could not be bound and what to do.
func explain(s Spec, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENODEV):
		hint = fmt.Sprintf("; %q is not an interface of this host", s.Device)
	case errors.Is(err, syscall.EPERM) && s.Device != "":
		hint = "; binding to an interface needs Linux 5.7 or CAP_NET_RAW"
	case errors.Is(err, syscall.EACCES):
		hint = fmt.Sprintf("; publish a port >= 1024 or set net.ipv4.ip_unprivileged_port_start=%d", s.HostPort)
	case errors.Is(err, syscall.EADDRINUSE) && s.HostPortEnd != 0:
		hint = "; no port of the range is free"
	case errors.Is(err, syscall.EADDRINUSE) && s.HostPort == 0:
		hint = "; the host has no free port left"
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "; publish another host port or stop what holds this one"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = fmt.Sprintf("; %s is not an address of this host", s.HostIP)
	case errors.Is(err, syscall.EAFNOSUPPORT):
		hint = "; this host has no IPv6"
	case errors.Is(err, syscall.EMFILE):
		hint = "; raise the limit of open files (ulimit -n) or publish fewer ports"
	}
	return &BindError{Spec: s, Err: err, hint: hint}
}

// BindError says that a socket could not be bound, and what to do.
type BindError struct {
	Spec Spec // with the address and the port that were tried, or the whole range
	Err  error
	hint string
}

func (e *BindError) Error() string {
	return fmt.Sprintf("publish %s: %v%s", e.Spec.host(), e.Err, e.hint)
}

// Unwrap returns the cause, a syscall.Errno somewhere below.
func (e *BindError) Unwrap() error { return e.Err }

package rootlessport

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/portfwd"
)

// ports are the published ports of one container. The sockets stay bound for as long as the process lives; where they
// lead to can change.
type ports struct {
	in        *inside
	listeners []portfwd.Listener
	log       *slog.Logger

	mu     sync.Mutex // serialises lead and close
	fw     *portfwd.Forwarder
	dgrams *datagrams
}

// listen binds what specs ask for, or nothing. Its errors have the original's texts.
func listen(specs []portfwd.Spec) ([]portfwd.Listener, error) {
	ls, err := portfwd.Listen(specs, true)
	var bind *portfwd.BindError
	if !errors.As(err, &bind) {
		return ls, err
	}
	host := bind.Spec.HostIP
	if !host.IsValid() {
		host = netip.IPv4Unspecified()
	}
	why := fmt.Errorf("listen %s %s: bind: %w", bind.Spec.Proto, netip.AddrPortFrom(host, bind.Spec.HostPort), bind.Err)
	if errors.Is(err, syscall.EACCES) {
		start := unprivilegedStart()
		return nil, fmt.Errorf("cannot expose privileged port %d, you can add 'net.ipv4.ip_unprivileged_port_start=%[1]d' to /etc/sysctl.conf (currently %d), or choose a larger port number (>= %[2]d): %w", bind.Spec.HostPort, start, why)
	}
	return nil, why
}

// unprivilegedStart is the first port everybody may bind.
func unprivilegedStart() int {
	const usual = 1024
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return usual
	}
	n, err := strconv.Atoi(string(b[:max(0, len(b)-1)]))
	if err != nil {
		return usual
	}
	return n
}

// lead makes the ports lead to a container's address. Connections to an earlier one are reset, unless nothing can be
// learnt of the container: then all stays as it was.
func (p *ports) lead(child netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, subnets, err := p.in.addresses(child)
	if err != nil {
		return err
	}
	p.stopLocked()
	specs := make([]portfwd.Spec, len(p.listeners))
	for i, l := range p.listeners {
		specs[i] = l.Spec
	}
	if err := p.in.keepSources(t, portRanges(specs)); err != nil {
		p.log.Warn("clients are shown under the container's own address", "err", err)
	}
	p.dgrams = newDatagrams(p.in)
	p.fw = portfwd.NewForwarder(portfwd.Config{
		Dialer: p.in, Emit: p.dgrams, Gateway4: t.Addr4, Gateway6: t.Addr6, Subnets: subnets, MTU: maxPacket, Log: p.log,
	})
	p.dgrams.fw = p.fw
	for i, l := range p.listeners {
		f, err := dup(l.File)
		if err == nil {
			err = p.fw.Add(strconv.Itoa(i), l.Spec, f, t)
		}
		if err != nil {
			p.stopLocked()
			return err
		}
	}
	return nil
}

// maxPacket is the MTU of lo as good as.
const maxPacket = 65535

func dup(f *os.File) (*os.File, error) {
	var fd int
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := rc.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (p *ports) stopLocked() {
	if p.fw == nil {
		return
	}
	// First what feeds the other: a receiver of datagrams may be about to use the Forwarder, which takes it.
	if err := p.fw.Close(); err != nil {
		p.log.Warn("a published port was not closed cleanly", "err", err)
	}
	p.dgrams.close()
	p.fw, p.dgrams = nil, nil
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopLocked()
	for _, l := range p.listeners {
		_ = l.File.Close()
	}
}

package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// want is what a datapath should hold. The supervisor owns it and every file in it.
type want struct {
	dns       dnsproxy.Config
	endpoints []endpoint
	ports     []portfwd.Listener // forwarded to endpoints[0]
}

type endpoint struct {
	spec spec.Endpoint
	tap  *os.File
	info tap.Info
}

// portID names a published port between control and datapath. A bound socket is unique by its
// protocol, address and port.
func portID(s portfwd.Spec) string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(s.HostIP, s.HostPort), s.Proto)
}

// resend brings a fresh process to what is wanted. Its error means that the process is of no use.
// What it refuses although an earlier one took it is logged and stays wanted.
func (s *supervisor) resend(p *datapath.Process) error {
	var broken error
	try := func(what string, err error) {
		var refused *datapath.RefusedError
		if errors.As(err, &refused) {
			s.keep(what, err)
		} else if broken == nil {
			broken = err
		}
	}
	if f := s.c.cfg.Capture; f != nil {
		try("capture", p.Capture(s.ctx, f, s.captured))
		s.captured = true
	}
	try("dns", p.SetDNS(s.ctx, s.want.dns))
	for _, e := range s.want.endpoints {
		try("attach "+e.spec.ID, p.Attach(s.ctx, e.spec, e.tap, e.info))
	}
	if len(s.want.endpoints) > 0 {
		for _, l := range s.want.ports {
			try("publish "+portID(l.Spec), p.Publish(s.ctx, portID(l.Spec), l.Spec, l.File, s.want.endpoints[0].spec.ID))
		}
	}
	return broken
}

// attach owns tapFile when it succeeds.
func (s *supervisor) attach(ep spec.Endpoint, tapFile *os.File, info tap.Info) error {
	if s.findEndpoint(ep.ID) >= 0 {
		return errors.New("it is attached already")
	}
	err := s.send(func(p *datapath.Process, ctx context.Context) error { return p.Attach(ctx, ep, tapFile, info) })
	if err != nil {
		return err
	}
	s.want.endpoints = append(s.want.endpoints, endpoint{ep, tapFile, info})
	if len(s.want.endpoints) > 1 {
		return nil
	}
	// Ports published before there was anyone to forward them to.
	for _, l := range s.want.ports {
		if err = s.sendPort(l); err != nil {
			s.want.endpoints = nil
			s.keep("detach", s.sendID((*datapath.Process).Detach, ep.ID))
			return fmt.Errorf("publish %s: %w", portID(l.Spec), err)
		}
	}
	return nil
}

func (s *supervisor) detach(id string) error {
	i := s.findEndpoint(id)
	if i < 0 {
		return errors.New("it is not attached")
	}
	if i == 0 {
		for _, l := range s.want.ports {
			s.keep("unpublish", s.sendID((*datapath.Process).Unpublish, portID(l.Spec)))
		}
	}
	s.keep("detach", s.sendID((*datapath.Process).Detach, id))
	s.want.endpoints[i].tap.Close()
	s.want.endpoints = slices.Delete(s.want.endpoints, i, i+1)
	if i == 0 {
		for _, l := range s.want.ports {
			s.keep("publish", s.sendPort(l))
		}
	}
	return nil
}

func (s *supervisor) findEndpoint(id string) int {
	return slices.IndexFunc(s.want.endpoints, func(e endpoint) bool { return e.spec.ID == id })
}

// publish owns the sockets of ls when it succeeds.
func (s *supervisor) publish(ls []portfwd.Listener) error {
	for i, l := range ls {
		err := s.sendPort(l)
		if err == nil {
			continue
		}
		for _, l := range ls[:i] {
			s.keep("unpublish", s.sendID((*datapath.Process).Unpublish, portID(l.Spec)))
		}
		return fmt.Errorf("%s: %w", portID(l.Spec), err)
	}
	s.want.ports = append(s.want.ports, ls...)
	s.c.setPorts(s.want.ports)
	return nil
}

func (s *supervisor) unpublish(specs []portfwd.Spec) error {
	gone := make(map[int]bool)
	for _, q := range specs {
		n := len(gone)
		for i, l := range s.want.ports {
			if matches(q, l.Spec) {
				gone[i] = true
			}
		}
		if len(gone) == n {
			return fmt.Errorf("unpublish %s: %w; usernet port ls shows what is", q, ErrNotPublished)
		}
	}
	var left []portfwd.Listener
	for i, l := range s.want.ports {
		if !gone[i] {
			left = append(left, l)
			continue
		}
		s.keep("unpublish", s.sendID((*datapath.Process).Unpublish, portID(l.Spec)))
		l.File.Close()
	}
	s.want.ports = left
	s.c.setPorts(left)
	return nil
}

// matches reports whether q stands for the bound port s.
func matches(q, s portfwd.Spec) bool {
	return q.Proto == s.Proto && q.HostPort == s.HostPort &&
		(!q.HostIP.IsValid() || q.HostIP == s.HostIP) && (q.Port == 0 || q.Port == s.Port)
}

// sendPort has the datapath serve l, when there is an Endpoint to forward to.
func (s *supervisor) sendPort(l portfwd.Listener) error {
	if len(s.want.endpoints) == 0 {
		return nil
	}
	to := s.want.endpoints[0].spec.ID
	return s.send(func(p *datapath.Process, ctx context.Context) error {
		return p.Publish(ctx, portID(l.Spec), l.Spec, l.File, to)
	})
}

func (s *supervisor) sendID(request func(*datapath.Process, context.Context, string) error, id string) error {
	return s.send(func(p *datapath.Process, ctx context.Context) error { return request(p, ctx, id) })
}

func (s *supervisor) setUpstreams(u []netip.AddrPort) {
	if slices.Equal(u, s.want.dns.Upstreams) {
		return
	}
	s.log.Info("dns upstreams changed", "upstreams", u)
	s.want.dns.Upstreams = u
	s.keep("dns", s.send(func(p *datapath.Process, ctx context.Context) error { return p.SetDNS(ctx, s.want.dns) }))
}

// close closes every file.
func (w *want) close() {
	for _, e := range w.endpoints {
		e.tap.Close()
	}
	for _, l := range w.ports {
		l.File.Close()
	}
	w.endpoints, w.ports = nil, nil
}

// duplicate makes a descriptor of our own for the same open file. It does not use f.Fd, which would make a
// non-blocking file blocking for everyone who shares it.
func duplicate(f *os.File) (*os.File, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, derr := -1, error(nil)
	if err := rc.Control(func(u uintptr) { fd, derr = unix.FcntlInt(u, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, derr
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

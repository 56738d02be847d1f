package pasta

import (
	"context"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/pasta/forward"
)

// lookout tells who listens in one network namespace.
type lookout interface {
	ports(forward.Proto) (bound, error)
	close()
}

// sides make the two lookouts.
type sides struct {
	host   func() (lookout, error)
	inside func(context.Context) (lookout, error)
}

// kernelSides ask the kernel, by a socket of the host and by one that is made in the namespace.
func kernelSides(sockets makeSockets) sides {
	return sides{
		host: func() (lookout, error) { return hostListener() },
		inside: func(ctx context.Context) (lookout, error) {
			files, err := sockets(ctx, []plumb.Socket{{Network: plumb.SockDiag}})
			if err != nil {
				return nil, err
			}
			return newListener(files[0]), nil
		},
	}
}

// looker looks at each side once at most for each transport, and only when a rule needs it.
type looker struct {
	p      *ports
	ctx    context.Context
	onHost [2]bound
	within [2]bound
}

// inside is who listens in the namespace, or nil for a rule that does not mind.
func (l *looker) inside(r forward.Rule) (bound, error) {
	if !follows(r) {
		return nil, nil
	}
	if l.p.fresh {
		return bound{}, nil
	}
	b := &l.within[index(r.Proto)]
	if *b != nil {
		return *b, nil
	}
	if l.p.inside == nil {
		inside, err := l.p.sides.inside(l.ctx)
		if err != nil {
			return nil, err
		}
		l.p.inside = inside
	}
	found, err := l.p.inside.ports(r.Proto)
	*b = l.p.without(found, r.Proto, true)
	return *b, err
}

// host is who listens on the host, or nil for a rule that does not mind.
func (l *looker) host(r forward.Rule) (bound, error) {
	if r.Flags&(forward.Scan|forward.Weak) == 0 {
		return nil, nil
	}
	b := &l.onHost[index(r.Proto)]
	if *b != nil {
		return *b, nil
	}
	if l.p.host == nil {
		h, err := l.p.sides.host()
		if err != nil {
			return nil, err
		}
		l.p.host = h
	}
	found, err := l.p.host.ports(r.Proto)
	*b = l.p.without(found, r.Proto, false)
	return *b, err
}

package pasta

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
)

// network is what serves the sockets: control.Private, or a session.
type network interface {
	Publish(specs []portfwd.Spec) ([]portfwd.Spec, error)
	PublishSockets(ls []portfwd.Listener) error
	Unpublish(specs []portfwd.Spec) error
}

// makeSockets makes sockets in the namespace, all or none.
type makeSockets func(ctx context.Context, wanted []plumb.Socket) ([]*os.File, error)

// ports are the forwarded ports of one namespace.
type ports struct {
	net     network
	sockets makeSockets
	log     *slog.Logger
	// loopback is --host-lo-to-ns-lo.
	loopback bool
	changed  chan struct{} // of one element: the tables are others
	sides    sides
	wg       sync.WaitGroup // scan
	stop     context.CancelFunc

	mu sync.Mutex // guards what follows, and serializes changes
	// in and out are what is wanted, open is what there is.
	in, out forward.Table
	open    map[portfwd.Spec]bool
	host    lookout // both nil while no rule looks who listens
	inside  lookout
	failed  map[portfwd.Spec]bool // could not be opened, and it was said
	// fresh says that the namespace has just been made, and nobody listens in it.
	fresh bool
}

// startPorts opens what is missing and begins to look who listens, if a rule needs it. The ports of fixedSpecs(in) are
// open already. An error of a rule that is not best effort is one of the start. fresh says that the namespace has just
// been made.
func startPorts(ctx context.Context, n network, sockets makeSockets, look sides, fresh, loopback bool, in, out forward.Table, log *slog.Logger) (*ports, error) {
	p := &ports{
		fresh: fresh, loopback: loopback,
		net: n, sockets: sockets, sides: look, log: log, changed: make(chan struct{}, 1),
		open: map[portfwd.Spec]bool{}, failed: map[portfwd.Spec]bool{},
	}
	specs, err := fixedSpecs(&in, p.loopback)
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		p.open[s] = true
	}
	if err := p.set(ctx, in, out); err != nil {
		p.closeListeners()
		return nil, err
	}
	p.fresh = false
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.wg.Go(func() { p.scan(ctx) })
	return p, nil
}

// close stops looking. The sockets end with the Network.
func (p *ports) close() {
	p.stop()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeListeners()
}

func (p *ports) closeListeners() {
	for _, l := range []lookout{p.host, p.inside} {
		if l != nil {
			l.close()
		}
	}
	p.host, p.inside = nil, nil
}

// tables returns what is wanted.
func (p *ports) tables() (in, out forward.Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in.Clone(), p.out.Clone()
}

// set replaces the tables. After an error all is as it was, as far as the ports can be had again.
func (p *ports) set(ctx context.Context, in, out forward.Table) error {
	if err := checkOut(&out); err != nil {
		return err
	}
	if _, err := fixedSpecs(&in, p.loopback); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	wasIn, wasOut := p.in, p.out
	p.in, p.out = in, out
	clear(p.failed)
	err := p.sync(ctx)
	if err != nil {
		p.in, p.out = wasIn, wasOut
		_ = p.sync(ctx)
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return err
}

// scan looks who listens, while a rule needs it. Without one it sleeps until the tables change.
func (p *ports) scan(ctx context.Context) {
	t := time.NewTimer(scanEvery)
	defer t.Stop()
	for {
		t.Stop()
		if p.scans() {
			t.Reset(scanEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		case <-t.C:
			p.mu.Lock()
			if err := p.sync(ctx); err != nil && ctx.Err() == nil {
				p.log.Warn("ports are not as they should be", "err", err)
			}
			p.mu.Unlock()
		}
	}
}

// scans reports whether a rule needs to know who listens.
func (p *ports) scans() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.in.Rules, follows) || slices.ContainsFunc(p.out.Rules, follows)
}

// sync makes what is open what is wanted. The caller holds mu.
func (p *ports) sync(ctx context.Context) error {
	want, err := p.wanted(ctx)
	if err != nil {
		return err
	}
	var gone []portfwd.Spec
	for s := range p.open {
		if _, ok := want[s]; !ok {
			gone = append(gone, s)
			delete(p.open, s)
		}
	}
	if len(gone) > 0 {
		p.log.Debug("ports closed", "ports", gone)
		if err := p.net.Unpublish(gone); err != nil {
			p.log.Warn("ports not closed", "err", err)
		}
	}
	maps.DeleteFunc(p.failed, func(s portfwd.Spec, _ bool) bool { _, ok := want[s]; return !ok })
	var must, may []portfwd.Spec
	for s, mustBe := range want {
		switch {
		case p.open[s]:
		case mustBe:
			must = append(must, s)
		default:
			may = append(may, s)
		}
	}
	if len(must) > 0 {
		if err := p.publish(ctx, must); err != nil {
			return err
		}
	}
	p.tryEach(ctx, may)
	return nil
}

// tryEach opens what can be opened. Ports of the namespace cost a helper: they are tried together at first, and one that
// cannot be had is not tried again.
func (p *ports) tryEach(ctx context.Context, specs []portfwd.Spec) {
	specs = slices.DeleteFunc(specs, func(s portfwd.Spec) bool { return s.Reverse && p.failed[s] })
	host, inside := split(specs)
	if len(inside) > 1 && p.publish(ctx, inside) == nil {
		inside = nil
	}
	for _, s := range slices.Concat(host, inside) {
		if p.open[s] {
			continue // its chunk was opened
		}
		err := p.publish(ctx, []portfwd.Spec{s})
		if err != nil && !p.failed[s] {
			p.log.Info("port not forwarded", "port", s.String(), "err", err)
		}
		p.failed[s] = err != nil
	}
}

// publish opens ports, all or none of each side.
func (p *ports) publish(ctx context.Context, specs []portfwd.Spec) error {
	in, out := split(specs)
	if len(in) > 0 {
		if _, err := p.net.Publish(in); err != nil {
			return err
		}
		p.opened(in)
	}
	for chunk := range slices.Chunk(out, sys.MaxFDs) {
		if err := p.publishInside(ctx, chunk); err != nil {
			return err
		}
		p.opened(chunk)
	}
	return nil
}

func (p *ports) opened(specs []portfwd.Spec) {
	for _, s := range specs {
		p.open[s] = true
	}
	p.log.Debug("ports opened", "ports", specs)
}

// split tells ports of the host from those of the namespace.
func split(specs []portfwd.Spec) (host, inside []portfwd.Spec) {
	for _, s := range specs {
		if s.Reverse {
			inside = append(inside, s)
		} else {
			host = append(host, s)
		}
	}
	return host, inside
}

func (p *ports) publishInside(ctx context.Context, specs []portfwd.Spec) error {
	wanted := make([]plumb.Socket, len(specs))
	for i, s := range specs {
		wanted[i] = socket(s)
	}
	files, err := p.sockets(ctx, wanted)
	if err != nil {
		return err
	}
	ls := make([]portfwd.Listener, len(files))
	for i, f := range files {
		defer f.Close()
		ls[i] = portfwd.Listener{Spec: specs[i], File: f}
	}
	return p.net.PublishSockets(ls)
}

// wanted is what is to be open; the value says whether it must be. The caller holds mu.
func (p *ports) wanted(ctx context.Context) (map[portfwd.Spec]bool, error) {
	want := map[portfwd.Spec]bool{}
	look := looker{p: p, ctx: ctx}
	for _, r := range p.in.Rules {
		listens, err := look.inside(r)
		if err != nil {
			return nil, err
		}
		for i := range r.Ports() {
			if listens == nil || listens[r.ToPort+uint16(i)] {
				want[inSpec(r, i, p.loopback)] = r.Flags&(forward.Weak|forward.Scan) == 0
			}
		}
	}
	for _, r := range p.out.Rules {
		listens, err := look.host(r)
		if err != nil {
			return nil, err
		}
		for i := range r.Ports() {
			if listens == nil || listens[r.ToPort+uint16(i)] {
				for _, s := range outSpecs(r, i) {
					want[s] = r.Flags&(forward.Weak|forward.Scan) == 0
				}
			}
		}
	}
	return want, nil
}

func index(p forward.Proto) int {
	if p == forward.UDP {
		return 1
	}
	return 0
}

// without leaves out the ports that are ours on one side.
func (p *ports) without(b bound, of forward.Proto, inside bool) bound {
	for s := range p.open {
		if s.Reverse == inside && s.Proto == proto(of) {
			delete(b, s.HostPort)
		}
	}
	return b
}

// socket is the one that a Reverse Spec needs.
func socket(s portfwd.Spec) plumb.Socket {
	kinds := map[portfwd.Proto][2]plumb.SocketNetwork{portfwd.TCP: {plumb.TCP4, plumb.TCP6}, portfwd.UDP: {plumb.UDP4, plumb.UDP6}}
	family := 0
	if s.HostIP.Is6() {
		family = 1
	}
	return plumb.Socket{Network: kinds[s.Proto][family], Listen: netip.AddrPortFrom(s.HostIP, s.HostPort)}
}

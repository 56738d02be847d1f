package control

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// want is what a datapath should hold. The supervisor owns it and every file in it.
type want struct {
	reserved  map[netip.Prefix]int // how often: two Networks may have the same for a moment
	upstreams []netip.AddrPort
	networks  map[string]*network
	attached  int // Endpoints of all of them
}

type network struct {
	spec      spec.Network
	hosts     map[string][]netip.Addr
	endpoints map[string]*endpoint
	capture   *os.File // nil without one
	captured  bool     // a datapath has written to it already
}

type endpoint struct {
	spec  spec.Endpoint
	tap   *os.File
	info  tap.Info
	ports map[string]portfwd.Listener // by portID
	// sockets are of its network namespace, for the datapath to make connections there.
	sockets []*os.File
}

func newWant() want {
	return want{reserved: make(map[netip.Prefix]int), networks: make(map[string]*network)}
}

// portID names a published port between control and datapath. A bound socket is unique by its
// protocol, address and port in the namespace it is bound in.
func portID(s portfwd.Spec) string {
	if s.Reverse {
		s.Reverse = false
		return "reverse/" + portID(s)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(s.HostIP, s.HostPort), s.Proto)
}

// network returns a Network that is wanted.
func (w *want) network(id string) (*network, error) {
	n := w.networks[id]
	if n == nil {
		return nil, fmt.Errorf("network %s is not there", id)
	}
	return n, nil
}

// endpoint returns an Endpoint that is wanted.
func (w *want) endpoint(network, id string) (*endpoint, error) {
	n, err := w.network(network)
	if err != nil {
		return nil, err
	}
	e := n.endpoints[id]
	if e == nil {
		return nil, fmt.Errorf("it is not attached to network %s", network)
	}
	return e, nil
}

// requests are what brings a datapath that knows nothing to all this, in an order in which nothing is
// let through that is to be refused: what is reserved comes before whom it is reserved from, and ports come when
// all Networks are there.
func (w *want) requests() iter.Seq[datapath.Request] {
	return func(yield func(datapath.Request) bool) {
		for _, r := range datapath.Reserve(slices.Collect(maps.Keys(w.reserved))) {
			if !yield(r) {
				return
			}
		}
		if !yield(datapath.SetUpstreams(w.upstreams)) {
			return
		}
		for _, part := range []func(id string, n *network, yield func(datapath.Request) bool) bool{
			requestNetwork, requestEndpoints, requestSockets, requestPorts,
		} {
			for id, n := range w.networks {
				if !part(id, n, yield) {
					return
				}
			}
		}
	}
}

func requestNetwork(id string, n *network, yield func(datapath.Request) bool) bool {
	if !yield(datapath.AddNetwork(n.spec, n.hosts)) {
		return false
	}
	if n.capture == nil {
		return true
	}
	begun := n.captured
	n.captured = true
	return yield(datapath.Capture(id, n.capture, begun))
}

func requestEndpoints(id string, n *network, yield func(datapath.Request) bool) bool {
	for _, e := range n.endpoints {
		if !yield(datapath.Attach(id, e.spec, e.tap, e.info)) {
			return false
		}
	}
	return true
}

func requestSockets(id string, n *network, yield func(datapath.Request) bool) bool {
	for _, e := range n.endpoints {
		for _, f := range e.sockets {
			if !yield(datapath.Socket(id, e.spec.ID, f)) {
				return false
			}
		}
	}
	return true
}

func requestPorts(id string, n *network, yield func(datapath.Request) bool) bool {
	for _, e := range n.endpoints {
		for port, l := range e.ports {
			if !yield(datapath.Publish(id, port, l.Spec, l.File, e.spec.ID)) {
				return false
			}
		}
	}
	return true
}

// close closes every file.
func (w *want) close() {
	for _, n := range w.networks {
		if n.capture != nil {
			n.capture.Close()
		}
		for _, e := range n.endpoints {
			e.close()
		}
	}
	clear(w.networks)
}

func (e *endpoint) close() {
	e.tap.Close()
	for _, f := range e.sockets {
		f.Close()
	}
	for _, l := range e.ports {
		l.File.Close()
	}
}

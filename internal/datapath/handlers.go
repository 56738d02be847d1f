package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// handler serves one kind of request: file when a descriptor comes with it, else plain. file owns the
// descriptor.
type handler struct {
	plain func(s *server, body json.RawMessage) (any, error)
	file  func(s *server, body json.RawMessage, f *os.File) error
}

// handlers lists the requests.
var handlers = map[kind]handler{
	kindHello:         {plain: (*server).hello},
	kindShutdown:      {plain: func(*server, json.RawMessage) (any, error) { return nil, errShutdown }},
	kindReserve:       {plain: (*server).reserve},
	kindRelease:       {plain: (*server).release},
	kindUpstreams:     {plain: (*server).setUpstreams},
	kindHostChanged:   {plain: (*server).hostChanged},
	kindAddNetwork:    {plain: (*server).addNetwork},
	kindRemoveNetwork: {plain: (*server).removeNetwork},
	kindUpdate:        {plain: (*server).update},
	kindDetach:        {plain: (*server).detach},
	kindUnpublish:     {plain: (*server).unpublish},
	kindStats:         {plain: (*server).stats},
	kindInventory:     {plain: (*server).inventory},
	kindAttach:        {file: (*server).attach},
	kindPublish:       {file: (*server).publish},
	kindSocket:        {file: (*server).socket},
	kindCapture:       {file: (*server).capture},
}

// parse reads the body of a request.
func parse[T any](body json.RawMessage) (T, error) {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("decode request: %w", err)
	}
	return v, nil
}

// find returns a live Network.
func (s *server) find(id string) (Backend, error) {
	n := s.networks[id]
	if n == nil {
		return nil, fmt.Errorf("find network %s: there is none", id)
	}
	return n.backend, nil
}

// about reads a request about one live Network and finds that.
func about[Q interface{ network() string }](s *server, body json.RawMessage) (q Q, b Backend, err error) {
	if q, err = parse[Q](body); err == nil {
		b, err = s.find(q.network())
	}
	return q, b, err
}

func (q networkRequest) network() string { return q.Network }
func (q idRequest) network() string      { return q.Network }
func (q attachRequest) network() string  { return q.Network }
func (q updateRequest) network() string  { return q.Network }
func (q publishRequest) network() string { return q.Network }
func (q captureRequest) network() string { return q.Network }

func (s *server) hello(body json.RawMessage) (any, error) {
	q, err := parse[helloRequest](body)
	if err != nil {
		return nil, err
	}
	if q.Version != ProtocolVersion {
		return nil, fmt.Errorf("serve hello: control speaks version %d, this datapath %d; start the sandbox again", q.Version, ProtocolVersion)
	}
	return Hello{Version: ProtocolVersion, Build: s.build, Confine: s.report}, nil
}

func (s *server) reserve(body json.RawMessage) (any, error) {
	return nil, s.byPrefixes(body, Host.Reserve, s.held.add)
}

func (s *server) release(body json.RawMessage) (any, error) {
	return nil, s.byPrefixes(body, Host.Release, func(e entry) { s.held.remove(e.key) })
}

func (s *server) byPrefixes(body json.RawMessage, do func(Host, ...netip.Prefix) error, note func(entry)) error {
	q, err := parse[prefixesRequest](body)
	if err != nil {
		return err
	}
	if err := do(s.host, q.Prefixes...); err != nil {
		return err
	}
	for _, p := range q.Prefixes {
		note(entry{key: prefixKey(p)})
	}
	return nil
}

func (s *server) setUpstreams(body json.RawMessage) (any, error) {
	q, err := parse[upstreamsRequest](body)
	if err != nil {
		return nil, err
	}
	s.upstreams = q.Servers
	for _, n := range s.networks {
		s.setDNS(n)
	}
	return nil, nil
}

func (s *server) hostChanged(json.RawMessage) (any, error) {
	for _, n := range s.networks {
		n.backend.HostChanged()
	}
	return nil, nil
}

func (s *server) addNetwork(body json.RawMessage) (any, error) {
	q, err := parse[addNetworkRequest](body)
	if err != nil {
		return nil, err
	}
	id := q.Network.ID
	switch {
	case id == "":
		return nil, errors.New("add network: it has no id")
	case s.networks[id] != nil:
		return nil, fmt.Errorf("add network %s: there is one already", id)
	}
	b, err := s.host.New(q.Network, Options{
		Log: s.log,
		EndpointDown: func(endpoint string, cause error) {
			s.held.gone(id, endpoint)
			s.event(Event{Kind: EventEndpointDown, Network: id, ID: endpoint, Cause: cause.Error()})
		},
	})
	if err != nil {
		return nil, err
	}
	n := &network{backend: b, hosts: q.Hosts}
	s.networks[id] = n
	s.held.add(q.entry())
	s.memory.added(len(s.networks))
	s.setDNS(n)
	return nil, nil
}

func (s *server) removeNetwork(body json.RawMessage) (any, error) {
	q, b, err := about[networkRequest](s, body)
	if err != nil {
		return nil, err
	}
	delete(s.networks, q.Network)
	s.held.removeNetwork(q.Network)
	err = b.Close()
	s.memory.removed(len(s.networks))
	return nil, err
}

func (s *server) update(body json.RawMessage) (any, error) {
	q, b, err := about[updateRequest](s, body)
	if err != nil {
		return nil, err
	}
	if err := b.Update(q.Endpoint); err != nil {
		return nil, err
	}
	s.held.update(q)
	return nil, nil
}

func (s *server) detach(body json.RawMessage) (any, error) {
	return nil, s.byID(body, Backend.Detach, kindAttach)
}

func (s *server) unpublish(body json.RawMessage) (any, error) {
	return nil, s.byID(body, Backend.Unpublish, kindPublish)
}

// byID takes away what a request of kind made brought.
func (s *server) byID(body json.RawMessage, do func(Backend, string) error, made kind) error {
	q, b, err := about[idRequest](s, body)
	if err != nil {
		return err
	}
	if err := do(b, q.ID); err != nil {
		return err
	}
	s.held.remove(key{made, q.Network, q.ID})
	return nil
}

// inventory says what is held.
func (s *server) inventory(body json.RawMessage) (any, error) {
	q, err := parse[inventoryRequest](body)
	if err != nil {
		return nil, err
	}
	return s.held.page(q.After)
}

func (s *server) stats(body json.RawMessage) (any, error) {
	_, b, err := about[networkRequest](s, body)
	if err != nil {
		return nil, err
	}
	return b.Stats(), nil
}

// give reads a request that came with a descriptor and hands both to its Network's Backend, which owns f then.
func give[Q interface{ network() string }](s *server, body json.RawMessage, f *os.File, do func(Backend, Q) error) error {
	q, b, err := about[Q](s, body)
	if err != nil {
		f.Close()
		return err
	}
	return do(b, q)
}

func (s *server) attach(body json.RawMessage, f *os.File) error {
	return give(s, body, f, func(b Backend, q attachRequest) error {
		if err := b.Attach(q.Endpoint, f, q.TAP); err != nil {
			return err
		}
		s.held.add(q.entry())
		return nil
	})
}

func (s *server) publish(body json.RawMessage, f *os.File) error {
	return give(s, body, f, func(b Backend, q publishRequest) error {
		if err := b.Publish(q.ID, q.Spec, f, q.Endpoint); err != nil {
			return err
		}
		s.held.add(q.entry())
		return nil
	})
}

func (s *server) socket(body json.RawMessage, f *os.File) error {
	return give(s, body, f, func(b Backend, q idRequest) error { return b.Socket(q.ID, f) })
}

func (s *server) capture(body json.RawMessage, f *os.File) error {
	return give(s, body, f, func(b Backend, q captureRequest) error {
		c, ok := b.(Capturer)
		if !ok {
			f.Close()
			return errors.New("serve capture: this network cannot capture")
		}
		return c.Capture(f, q.More)
	})
}

package control

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// fakeHost is what runs in the datapath processes of these tests.
type fakeHost map[netip.Prefix]bool

func newFake(*slog.Logger) datapath.Host { return fakeHost{} }

func (h fakeHost) Reserve(ps ...netip.Prefix) error {
	for _, p := range ps {
		if h[p] {
			return fmt.Errorf("%s is reserved", p)
		}
		if p.Bits() == 0 {
			return errors.New("not everything")
		}
		h[p] = true
	}
	return nil
}

func (h fakeHost) Release(ps ...netip.Prefix) error {
	for _, p := range ps {
		if !h[p] {
			return fmt.Errorf("%s is not reserved", p)
		}
		delete(h, p)
	}
	return nil
}

func (h fakeHost) New(n spec.Network, o datapath.Options) (datapath.Backend, error) {
	if n.Name == "refuse" {
		return nil, errors.New("make network refuse: not today")
	}
	return &fakeBackend{host: h, net: n, o: o, endpoints: make(map[string]spec.Endpoint), ports: make(map[string]*fakePort)}, nil
}

// fakeBackend says what it holds as Stats, under names that dump makes. What it is told it also tells as events whose
// cause is the method; on each published TCP port it answers with its Network's name. An Endpoint called
// "refuse" is refused; one byte read from the TAP panics ("p") or ends it ("e") in the goroutine that reads it.
type fakeBackend struct {
	host      fakeHost
	net       spec.Network
	o         datapath.Options
	endpoints map[string]spec.Endpoint
	ports     map[string]*fakePort
	dns       dnsproxy.Config
}

type fakePort struct {
	net.Listener
	endpoint string
}

func (b *fakeBackend) tell(method, id string) { b.o.EndpointDown(id, errors.New(method)) }

func (b *fakeBackend) Attach(ep spec.Endpoint, f *os.File, info tap.Info) error {
	if ep.ID == "refuse" || b.endpoints[ep.ID].ID != "" {
		f.Close()
		return errors.New("not today")
	}
	b.endpoints[ep.ID] = ep
	b.tell("attach", ep.ID)
	go func() {
		var one [1]byte
		if _, err := io.ReadFull(f, one[:]); err == nil && one[0] == 'p' {
			panic("the packet that caused it")
		}
		if one[0] == 'e' {
			b.tell("the TAP is gone", ep.ID)
		}
	}()
	return nil
}

func (b *fakeBackend) Update(ep spec.Endpoint) error {
	if len(ep.Names) > 0 && ep.Names[0] == "refuse" {
		return errors.New("not this name")
	}
	b.endpoints[ep.ID] = ep
	return nil
}

func (b *fakeBackend) Detach(id string) error {
	delete(b.endpoints, id)
	b.tell("detach", id)
	return nil
}

func (b *fakeBackend) Publish(id string, s portfwd.Spec, f *os.File, endpoint string) error {
	defer f.Close()
	if s.Port == 666 {
		return errors.New("not this port")
	}
	b.tell("publish", id)
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	b.ports[id] = &fakePort{l, endpoint}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, b.net.Name)
			c.Close()
		}
	}()
	return nil
}

func (b *fakeBackend) Socket(endpoint string, f *os.File) error {
	b.tell("socket", endpoint)
	_, err := f.WriteString("s")
	return errors.Join(err, f.Close())
}

func (b *fakeBackend) Unpublish(id string) error {
	b.ports[id].Close()
	delete(b.ports, id)
	b.tell("unpublish", id)
	return nil
}

func (b *fakeBackend) SetDNS(c dnsproxy.Config) {
	b.dns = c
	b.tell("dns", fmt.Sprint(c.Upstreams))
}

func (b *fakeBackend) HostChanged() { b.tell("host-changed", "") }

func (b *fakeBackend) Capture(f *os.File, more bool) error {
	_, err := fmt.Fprintf(f, "%v\n", more)
	return errors.Join(err, f.Close())
}

func (b *fakeBackend) Stats() spec.Stats {
	ports := make(map[string]string)
	for id, p := range b.ports {
		ports[id] = p.endpoint
	}
	return spec.Stats{Ports: len(b.ports), Endpoints: len(b.endpoints), Drops: dump(maps.Keys(b.host), b.dns.Hosts, b.endpoints, ports)}
}

func (b *fakeBackend) Close() error {
	for _, p := range b.ports {
		p.Close()
	}
	return nil
}

package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// fakeBackend is what runs in the datapath processes of these tests. What it is told it tells as events whose
// kind is the method; on each published TCP port it answers with its Network's name. An Endpoint called
// "refuse" is refused; one byte read from the TAP "p" panics in the goroutine that reads it.
type fakeBackend struct {
	net spec.Network
	o   datapath.Options
	ls  map[string]net.Listener
}

func newFake(n spec.Network, o datapath.Options) (datapath.Backend, error) {
	if n.Name == "refuse" {
		return nil, errors.New("make network refuse: not today")
	}
	return &fakeBackend{net: n, o: o, ls: make(map[string]net.Listener)}, nil
}

func (b *fakeBackend) tell(kind, id, cause string) {
	b.o.Event(datapath.Event{Kind: datapath.EventKind(kind), ID: id, Cause: cause})
}

func (b *fakeBackend) Attach(ep spec.Endpoint, f *os.File, info tap.Info) error {
	if ep.ID == "refuse" {
		f.Close()
		return errors.New("not today")
	}
	b.tell("attach", ep.ID, info.Name)
	go func() {
		var one [1]byte
		if _, err := io.ReadFull(f, one[:]); err == nil && one[0] == 'p' {
			panic("the packet that caused it")
		}
	}()
	return nil
}

func (b *fakeBackend) Detach(id string) error { b.tell("detach", id, ""); return nil }

func (b *fakeBackend) Publish(id string, s portfwd.Spec, f *os.File, endpoint string) error {
	defer f.Close()
	if s.Port == 666 {
		return errors.New("not this port")
	}
	b.tell("publish", id, endpoint)
	if s.Proto != portfwd.TCP {
		return nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	b.ls[id] = l
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

func (b *fakeBackend) Unpublish(id string) error {
	if l := b.ls[id]; l != nil {
		l.Close()
	}
	b.tell("unpublish", id, "")
	return nil
}

func (b *fakeBackend) SetDNS(c dnsproxy.Config) {
	b.tell("dns", fmt.Sprint(c.Upstreams), fmt.Sprint(c.Hosts))
}
func (b *fakeBackend) HostChanged()      { b.tell("host-changed", "", "") }
func (b *fakeBackend) Stats() spec.Stats { return spec.Stats{Ports: len(b.ls)} }
func (b *fakeBackend) Close() error      { return nil }

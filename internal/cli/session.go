package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/shim"
)

// DatapathRole is the hidden word that selects the datapath process.
const DatapathRole = "__datapath"

// session is the network of one sandbox, as run and attach bring it up.
type session struct {
	*app
	*netOptions
	plan    *plan
	id      string
	kind    string   // run or attach
	command []string // for ps
	log     *slog.Logger

	capture *os.File // nil without --pcap
	place   *registry.Registration
}

// sandboxID is what a sandbox is known by: its name, or twelve random digits, as Docker's short ids.
func sandboxID(name string) string {
	if name != "" {
		return name
	}
	var b [6]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// open makes what is needed before the sandbox and can be refused.
func (s *session) open() (err error) {
	d, err := registry.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if s.place, err = d.Reserve(s.id); err != nil {
		return err
	}
	if s.pcap != "" {
		// Opened here: the datapath sees no file system.
		s.capture, err = os.OpenFile(s.pcap, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return errors.Join(fmt.Errorf("--pcap: %w", err), s.place.Close())
		}
	}
	return nil
}

func (s *session) close() {
	if err := s.place.Close(); err != nil {
		s.log.Warn("sandbox not taken off the list", "id", s.id, "err", err)
	}
	if s.capture != nil {
		if err := s.capture.Close(); err != nil {
			s.log.Warn("capture not complete", "file", s.pcap, "err", err)
		}
	}
}

// start brings up control, which starts the datapath. pid is a process in the sandbox's namespaces.
func (s *session) start(ctx context.Context, pid int) (shim.Network, error) {
	hosts, err := s.localNames()
	if err != nil {
		return nil, err
	}
	// For guests that configure themselves; the files of a sandbox have it already.
	host, err := hostResolv()
	if err != nil {
		return nil, err
	}
	s.plan.network.DNSSearch = s.searchList(host)
	p, err := control.StartPrivate(ctx, control.Config{
		DNS: control.DNS{Servers: s.dns},
		Datapath: datapath.Config{
			Args: []string{"usernet", DatapathRole}, Stderr: s.stdio.Err,
			Level: s.netOptions.log.level, JSON: s.netOptions.log.json,
		},
		Log: s.log,
	}, control.PrivateConfig{
		Network: s.plan.network, Endpoint: s.plan.endpoint, Hosts: hosts,
		Publish: s.publish, Capture: s.capture,
	})
	if err != nil {
		return nil, err
	}
	e := registry.Entry{
		Kind: s.kind, ShimPID: os.Getpid(), PID: pid, Addrs: s.plan.endpoint.Addrs,
		Created: time.Now(), Command: s.command,
	}
	if err := s.place.Serve(e, p, s.log); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return private{p}, nil
}

// private is a Private as the shim asks for it.
type private struct{ *control.Private }

// Started has nobody to tell.
func (private) Started(int) {}

// Changes are never made to a private Network.
func (private) Changes() <-chan shim.Change { return nil }

// localNames are what the Network's name server answers without asking anyone.
func (s *session) localNames() (map[string][]netip.Addr, error) {
	extra, err := s.extraHosts(s.plan)
	if err != nil {
		return nil, err
	}
	hosts := map[string][]netip.Addr{}
	for _, h := range extra {
		n := strings.ToLower(h.Names[0])
		hosts[n] = append(hosts[n], h.Addr)
	}
	return hosts, nil
}

package cli

import (
	"context"
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

// session is one sandbox that run or attach makes: its place among the user's sandboxes, and its network as it is
// brought up. The order is the same for every mode: the name is reserved, so that two never have it; the ports are
// bound; then the sandbox is shown to others, while it is being made; and its command starts last.
type session struct {
	*app
	*netOptions
	entry registry.Entry
	log   *slog.Logger

	warnings []string
	capture  *os.File // nil without --pcap
	place    *registry.Registration
}

// newSession makes the session of a sandbox; kind is the command that makes it.
func (a *app) newSession(kind string, o *netOptions, command []string) *session {
	e := registry.Entry{
		ID: registry.NewID(), Name: o.name, Kind: kind, ShimPID: os.Getpid(), Command: command, Created: time.Now(),
	}
	if e.Name == "" {
		e.Name = registry.ShortID(e.ID)
	}
	return &session{app: a, netOptions: o, entry: e, log: o.log.logger(a.stdio.Err)}
}

// open makes what is needed before the sandbox and can be refused.
func (s *session) open() (err error) {
	d, err := registry.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	if s.place, err = d.Reserve(s.entry.Name); err != nil {
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
		s.log.Warn("sandbox not taken off the list", "name", s.entry.Name, "err", err)
	}
	if s.capture != nil {
		if err := s.capture.Close(); err != nil {
			s.log.Warn("capture not complete", "file", s.pcap, "err", err)
		}
	}
}

// show makes the sandbox known and returns its network for the shim. pid is a process in its namespaces. An
// error closes n.
func (s *session) show(pid int, n shim.Network, view registry.Sandbox) (shim.Network, error) {
	m := newMember(n, s.started)
	s.place.OnSignal(m.signal)
	e := s.entry
	e.PID = pid
	if err := s.place.Serve(e, view, s.log); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// started is called when the command runs.
func (s *session) started() {
	s.reporter.send(report{ID: s.entry.ID, Warnings: s.warnings})
}

// startBare is for a sandbox whose packets nobody here moves.
func (s *session) startBare(_ context.Context, pid int) (shim.Network, error) {
	return s.show(pid, bare{}, bare{})
}

// startPrivate brings up control, which starts the datapath, for the one Network of p.
func (s *session) startPrivate(p *plan) func(context.Context, int) (shim.Network, error) {
	return func(ctx context.Context, pid int) (shim.Network, error) {
		hosts, err := s.localNames(p)
		if err != nil {
			return nil, err
		}
		// For guests that configure themselves; the files of a sandbox have it already.
		host, err := hostResolv()
		if err != nil {
			return nil, err
		}
		p.network.DNSSearch = s.searchList(host)
		c, err := control.StartPrivate(ctx, control.Config{
			DNS: control.DNS{Servers: s.dns},
			Datapath: datapath.Config{
				Args: []string{"usernet", datapath.Role}, Stderr: s.stdio.Err,
				Level: s.netOptions.log.level, JSON: s.netOptions.log.json,
			},
			Log: s.log,
		}, control.PrivateConfig{
			Network: p.network, Endpoint: p.endpoint, Hosts: hosts, Publish: s.publish, Capture: s.capture, Splice: true,
		})
		if err != nil {
			return nil, err
		}
		s.entry.Addrs = p.endpoint.Addrs
		return s.show(pid, shim.WithSockets(private{c}, c.WantSockets(), c.UseSockets, s.log), c)
	}
}

// private is a Private as the shim asks for it.
type private struct{ *control.Private }

// Started has nobody to tell.
func (private) Started(int) {}

// Changes of the Network itself there are none.
func (private) Changes() <-chan shim.Change { return nil }

// localNames are what the Network's name server answers without asking anyone.
func (s *session) localNames(p *plan) (map[string][]netip.Addr, error) {
	extra, err := s.extraHosts(p)
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

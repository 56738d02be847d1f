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
	dns, err := s.dnsConfig()
	if err != nil {
		return nil, err
	}
	// For guests that configure themselves; the files of a sandbox have it already.
	host, err := hostResolv()
	if err != nil {
		return nil, err
	}
	s.plan.network.DNSSearch = s.searchList(host)
	c, err := control.Start(ctx, control.Config{
		Network: s.plan.network,
		DNS:     dns,
		Datapath: datapath.Config{
			Args: []string{"usernet", DatapathRole}, Stderr: s.stdio.Err,
			Level: s.netOptions.log.level, JSON: s.netOptions.log.json,
		},
		Capture: s.capture,
		Log:     s.log,
	})
	if err != nil {
		return nil, err
	}
	e := registry.Entry{
		Kind: s.kind, ShimPID: os.Getpid(), PID: pid, Addrs: s.plan.endpoint.Addrs,
		Created: time.Now(), Command: s.command,
	}
	if err := s.place.Serve(e, c, s.log); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dnsConfig is what the Network's name server knows and whom it asks.
func (s *session) dnsConfig() (control.DNS, error) {
	d := control.DNS{Servers: s.dns, Hosts: map[string][]netip.Addr{}}
	extra, err := s.extraHosts(s.plan)
	if err != nil {
		return d, err
	}
	for _, h := range extra {
		n := strings.ToLower(h.Names[0])
		d.Hosts[n] = append(d.Hosts[n], h.Addr)
	}
	return d, nil
}

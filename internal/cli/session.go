package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/usernet/usernet/internal/control"
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
	if s.pcap != "" {
		// Opened here: the datapath sees no file system.
		s.capture, err = os.OpenFile(s.pcap, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--pcap: %w", err)
		}
	}
	return nil
}

func (s *session) close() {
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

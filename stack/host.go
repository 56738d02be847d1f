package stack

import (
	"log/slog"
	"net/netip"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/stack/gateway"
	"github.com/usernet/usernet/stack/nat"
	"github.com/usernet/usernet/stack/quota"
)

// HostOptions is what a Host gets from its process.
type HostOptions struct {
	Log *slog.Logger
	// Descriptors is how many files the process may have open; 0 means no bound is known.
	Descriptors int
}

// Host is what the Networks of one process share: which prefixes are theirs, the names of their
// Endpoints, and the bounds that keep one of them from using up the process. It is safe for concurrent use.
type Host struct {
	log         *slog.Logger
	descriptors int
	reserved    nat.Reserved
	names       *dnsproxy.Directory
	gateways    *gateway.Shared
	udp, ping   *quota.Pool
}

// Of 16 parts of the process's descriptors that many are for flows of each kind and for queries to name servers, each of
// which has one. The rest are for TAPs, listeners and control (RX-06).
const (
	tcpDescriptors  = 9
	udpDescriptors  = 4
	pingDescriptors = 1
	dnsDescriptors  = 1
)

// NewHost makes a Host without Networks. It holds nothing that needs an end.
func NewHost(o HostOptions) *Host {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	part := func(of16 int) *quota.Pool {
		if o.Descriptors <= 0 {
			return nil
		}
		return quota.NewPool(max(1, o.Descriptors*of16/16))
	}
	h := &Host{
		log: o.Log, descriptors: o.Descriptors,
		gateways: gateway.NewShared(part(tcpDescriptors)),
		udp:      part(udpDescriptors), ping: part(pingDescriptors),
	}
	h.names = dnsproxy.NewDirectory(h.reserved.Contains, o.Descriptors*dnsDescriptors/16)
	return h
}

// Reserve says that prefixes belong to Networks, of this process or not: no container gets there but from
// within the Network itself. On an error nothing has changed.
func (h *Host) Reserve(prefixes ...netip.Prefix) error { return h.reserved.Add(prefixes...) }

// Release takes back what Reserve said.
func (h *Host) Release(prefixes ...netip.Prefix) error { return h.reserved.Remove(prefixes...) }

package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/usernet/usernet/stack/l2"
)

// Group keeps ports apart: frames never pass between two ports of the same group, except GroupNone and through holes
// (SetHoles).
type Group uint8

// The groups.
const (
	// GroupNone ports talk to everybody.
	GroupNone Group = iota
	// GroupContainers is for the containers of a Network whose containers may not talk to each other.
	GroupContainers
	// GroupVTEP is for tunnels to other hosts: what one delivers never goes back into another
	// (split horizon), since the tunnels are a full mesh.
	GroupVTEP
)

// PortConfig is what control knows about the station or stations behind a port.
type PortConfig struct {
	// ID names the port; it is unique in the Bridge.
	ID string
	// MAC is bound to the port for as long as it is attached. It may be zero if neither Strict nor Trusted.
	MAC l2.MAC
	// Addrs are bound to the port for as long as it is attached; no other port sends from them.
	Addrs []netip.Addr
	// Subnets bound the sources of a port that is neither Strict nor Trusted.
	Subnets []netip.Prefix
	// Strict binds the port to MAC and Addrs alone.
	Strict bool
	// Trusted is for ports with our own code behind them: what comes from them is not checked.
	Trusted bool
	// VNet says that frames from the port may have a VNet header; without it one that has is dropped.
	VNet bool
	// Group keeps the port apart from others; see Group.
	Group Group
}

// A Port is an attached l2.Port: the handle its reader feeds.
type Port struct {
	b         *Bridge
	out       l2.Port
	cfg       PortConfig
	linkLocal netip.Addr // derived from cfg.MAC, or zero
	flood     bucket
	holes     atomic.Pointer[map[string][]Hole] // by Hole.From; the map is immutable

	detached                  atomic.Bool
	framesIn, framesOut       atomic.Uint64
	framesLost, framesRefused atomic.Uint64
}

// PortStats counts frames of one port. In counts what its reader handed in, Dropped what of that the switch
// refused, Out what it was given, Lost what of that it could not take.
type PortStats struct {
	ID      string `json:"id"`
	Port    string `json:"port"`
	In      uint64 `json:"in"`
	Dropped uint64 `json:"dropped"`
	Out     uint64 `json:"out"`
	Lost    uint64 `json:"lost"`
}

// ID is the name the port was attached under.
func (p *Port) ID() string { return p.cfg.ID }

func (p *Port) String() string { return p.out.String() }

// Stats returns the port's counters.
func (p *Port) Stats() PortStats {
	return PortStats{
		ID: p.cfg.ID, Port: p.out.String(),
		In: p.framesIn.Load(), Dropped: p.framesRefused.Load(),
		Out: p.framesOut.Load(), Lost: p.framesLost.Load(),
	}
}

// maxMACs is how many stations may be behind the port.
func (p *Port) maxMACs() int {
	if p.cfg.Strict {
		return 1
	}
	return MaxMACs
}

// apart reports whether frames must not pass between p and q.
func (p *Port) apart(q *Port) bool {
	return p == q || p.cfg.Group != GroupNone && p.cfg.Group == q.cfg.Group
}

// check returns why c cannot be attached, whatever else is.
func (c *PortConfig) check() error {
	switch {
	case c.ID == "":
		return fmt.Errorf("port has no ID")
	case c.MAC.IsMulticast():
		return fmt.Errorf("%v is a group address", c.MAC)
	case c.Strict && c.Trusted:
		return fmt.Errorf("port cannot be both strict and trusted")
	case (c.Strict || c.Trusted) && c.MAC.IsZero():
		return fmt.Errorf("port needs a MAC address")
	case !c.Strict && !c.Trusted && len(c.Subnets) == 0:
		return fmt.Errorf("port that is not strict needs subnets")
	}
	for i, a := range c.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("address %v is not that of a single station", a)
		}
		if slices.Contains(c.Addrs[:i], a) {
			return fmt.Errorf("address %v is given twice", a)
		}
	}
	for _, s := range c.Subnets {
		if !s.IsValid() {
			return fmt.Errorf("subnet is not valid")
		}
	}
	return nil
}

// linkLocalOf derives the IPv6 link-local address of a MAC by modified EUI-64 (RFC 4291 appendix A), as
// the kernel does for an interface whose addr_gen_mode is the default.
func linkLocalOf(m l2.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

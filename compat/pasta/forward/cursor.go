package forward

import (
	"net/netip"
	"strings"
)

// cursor is what is left to read. Its methods move it only when they return true.
type cursor string

func (c *cursor) literal(s string) bool {
	if !strings.HasPrefix(string(*c), s) {
		return false
	}
	*c = (*c)[len(s):]
	return true
}

// port reads a number up to 65535. Zero is refused later, by the table.
func (c *cursor) port() (uint16, bool) {
	n, i := 0, 0
	for i < len(*c) && (*c)[i] >= '0' && (*c)[i] <= '9' {
		if n = n*10 + int((*c)[i]-'0'); n > 0xffff {
			return 0, false
		}
		i++
	}
	if i == 0 {
		return 0, false
	}
	*c = (*c)[i:]
	return uint16(n), true
}

// ports reads PORT["-"PORT].
func (c *cursor) ports() (Ports, bool) {
	d := *c
	first, ok := d.port()
	if !ok {
		return Ports{}, false
	}
	p := Ports{first, first}
	if e := d; e.literal("-") {
		if p.Last, ok = e.port(); !ok || p.Last < p.First {
			return Ports{}, false
		}
		d = e
	}
	*c = d
	return p, true
}

// addr reads an address, IPv6 with or without brackets. IPv4 that is mapped into IPv6 is IPv4, and all zeroes
// is an address too.
func (c *cursor) addr() (netip.Addr, bool) {
	d := *c
	brackets := d.literal("[")
	end := 0
	for end < len(d) && isAddrByte(d[end]) {
		end++
	}
	a, err := netip.ParseAddr(string(d[:end]))
	if err != nil || brackets && a.Is4() {
		return netip.Addr{}, false
	}
	d = d[end:]
	if brackets && !d.literal("]") {
		return netip.Addr{}, false
	}
	*c = d
	return a.Unmap(), true
}

func isAddrByte(b byte) bool {
	return b == ':' || b == '.' || b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

// target reads ":" and an address that is not all zeroes.
func (c *cursor) target() (netip.Addr, bool) {
	d := *c
	if !d.literal(":") {
		return netip.Addr{}, false
	}
	a, ok := d.addr()
	if !ok {
		return netip.Addr{}, false
	}
	*c = d
	if a.IsUnspecified() {
		return netip.Addr{}, true // whoever is on the other side, as without one
	}
	return a, true
}

func (c *cursor) chunk() (chunk, bool) {
	switch {
	case c.literal("all"):
		to, _ := c.target()
		return chunk{kind: chunkAll, to: to}, true
	case c.literal("auto"):
		return chunk{kind: chunkAuto}, true
	case c.literal("~"):
		p, ok := c.ports()
		return chunk{kind: chunkExclude, listen: p}, ok
	}
	p, ok := c.ports()
	if !ok {
		return chunk{}, false
	}
	k := chunk{kind: chunkInclude, listen: p, ports: p}
	if to, ok := c.target(); ok {
		k.to = to
		if d := *c; d.literal("/") {
			if k.ports, ok = d.ports(); !ok {
				return chunk{}, false
			}
			*c = d
		}
		return k, true
	}
	if d := *c; d.literal(":") {
		if k.ports, ok = d.ports(); !ok {
			return chunk{}, false
		}
		*c = d
	}
	return k, true
}

// portSet is a set of ports.
type portSet [1 << 10]uint64

func (s *portSet) add(p Ports) {
	for port := int(p.First); port <= int(p.Last); port++ {
		s[port>>6] |= 1 << (port & 63)
	}
}

func (s *portSet) has(port int) bool { return s[port>>6]&(1<<(port&63)) != 0 }

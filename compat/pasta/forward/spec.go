package forward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Option is the short name of an option that takes a SPEC.
type Option byte

// The options.
const (
	InTCP  Option = 't'
	InUDP  Option = 'u'
	OutTCP Option = 'T'
	OutUDP Option = 'U'
)

// Inbound reports whether the option listens on the host; the others listen in the namespace.
func (o Option) Inbound() bool { return o == InTCP || o == InUDP }

func (o Option) proto() Proto {
	if o == InTCP || o == OutTCP {
		return TCP
	}
	return UDP
}

// Ports is a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// Mode says what Parse does with the rules it reads.
type Mode uint8

// The modes.
const (
	Add Mode = iota
	Delete
)

// Parse reads the value of an option and changes the table by its rules, all or none. ephemeral are the ports
// that rules without any leave out. Its errors are sentences for the user.
func (t *Table) Parse(o Option, mode Mode, spec string, ephemeral Ports) error {
	rules, err := t.read(o, spec, ephemeral)
	if err != nil {
		return err
	}
	next := t.Clone()
	change, verb := next.Add, "add"
	if mode == Delete {
		change, verb = next.Delete, "delete"
	}
	for _, r := range rules {
		if err := change(r); err != nil {
			return fmt.Errorf("%w\nUnable to %s rule %v", err, verb, r)
		}
	}
	*t = next
	return nil
}

// read turns a SPEC into rules.
func (t *Table) read(o Option, spec string, ephemeral Ports) ([]Rule, error) {
	proto := o.proto()
	if spec == "none" {
		if slices.ContainsFunc(t.Rules, func(r Rule) bool { return r.Proto == proto }) {
			return nil, fmt.Errorf("-%c none conflicts with previous options", o)
		}
		return nil, nil
	}
	r := Rule{Proto: proto}
	ports, err := cutListen(&r, spec)
	if err != nil {
		return nil, err
	}
	if ports != spec && !o.Inbound() {
		return nil, fmt.Errorf("Listening address not allowed for -%c %s", o, spec)
	}
	if r.Device != "" && t.Caps&CapDevice == 0 {
		return nil, fmt.Errorf("Device binding for '-%c %s' unsupported (requires kernel 5.7+)", o, spec)
	}
	if !o.Inbound() {
		return t.readOutbound(r, ports, ephemeral)
	}
	if !r.Addr.IsValid() {
		r.Addr, r.Flags = t.wildcard()
	}
	return t.readPorts(r, ports, ephemeral)
}

// readOutbound makes the rules of -T and -U: every loopback address of the namespace.
func (t *Table) readOutbound(r Rule, ports string, ephemeral Ports) ([]Rule, error) {
	if t.Caps&CapDevice != 0 {
		r.Device = "lo"
		r.Addr, r.Flags = t.wildcard()
		return t.readPorts(r, ports, ephemeral)
	}
	var rules []Rule
	for _, l := range []struct {
		need Caps
		addr netip.Addr
	}{{CapIPv4, netip.AddrFrom4([4]byte{127, 0, 0, 1})}, {CapIPv6, netip.IPv6Loopback()}} {
		if t.Caps&l.need == 0 {
			continue
		}
		r.Addr = l.addr
		rs, err := t.readPorts(r, ports, ephemeral)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rs...)
	}
	return rules, nil
}

// wildcard is every address of the families there are.
func (t *Table) wildcard() (netip.Addr, Flags) {
	switch t.Caps & (CapIPv4 | CapIPv6) {
	case CapIPv4:
		return netip.IPv4Unspecified(), 0
	case CapIPv6:
		return netip.IPv6Unspecified(), 0
	}
	return netip.IPv6Unspecified(), DualStack
}

// cutListen reads what stands before the ports, and returns these.
func cutListen(r *Rule, spec string) (string, error) {
	c := cursor(spec)
	if a, ok := c.addr(); ok {
		r.Addr = a
	} else {
		c.literal("*")
	}
	if c.literal("%") {
		i := strings.IndexByte(string(c), '/')
		if i < 0 {
			return spec, nil // the ports will be refused as a whole
		}
		r.Device = string(c[:i])
		c = c[i:]
		if !validDevice(r.Device) {
			return "", fmt.Errorf("Invalid interface name: %s", r.Device)
		}
	}
	if !c.literal("/") {
		*r = Rule{Proto: r.Proto}
		return spec, nil
	}
	return string(c), nil
}

// chunk is one piece of PORTS.
type chunk struct {
	kind   chunkKind
	listen Ports
	to     netip.Addr
	ports  Ports // of the target
}

type chunkKind uint8

const (
	chunkAll chunkKind = iota
	chunkAuto
	chunkExclude
	chunkInclude
)

// readPorts makes the rules of PORTS, each like r but for its ports.
func (t *Table) readPorts(r Rule, spec string, ephemeral Ports) ([]Rule, error) {
	chunks, ok := cutChunks(spec)
	if !ok {
		return nil, fmt.Errorf("Invalid port specifier '%s'", spec)
	}
	var exclude portSet
	var all netip.Addr
	includes := false
	for _, c := range chunks {
		switch c.kind {
		case chunkAuto:
			r.Flags |= Scan
		case chunkExclude:
			exclude.add(c.listen)
		case chunkAll:
			all = c.to
		case chunkInclude:
			includes = true
		}
	}
	var rules []Rule
	if !includes {
		exclude.add(ephemeral)
		r.To, r.Flags = all, r.Flags|Weak
		return appendRanges(rules, r, Ports{1, 0xffff}, 1, &exclude), nil
	}
	for _, c := range chunks {
		if c.kind == chunkInclude {
			r.To = c.to
			rules = appendRanges(rules, r, c.listen, c.ports.First, &exclude)
		}
	}
	return rules, nil
}

// appendRanges adds one rule for each run of ports of p that is not excluded.
func appendRanges(rules []Rule, r Rule, p Ports, to uint16, exclude *portSet) []Rule {
	for port := int(p.First); port <= int(p.Last); port++ {
		if exclude.has(port) {
			continue
		}
		first := port
		for port < int(p.Last) && !exclude.has(port+1) {
			port++
		}
		r.First, r.Last, r.ToPort = uint16(first), uint16(port), to+uint16(first)-p.First
		rules = append(rules, r)
	}
	return rules
}

// cutChunks reads PORTS.
func cutChunks(spec string) ([]chunk, bool) {
	var chunks []chunk
	c := cursor(spec)
	for {
		k, ok := c.chunk()
		if !ok || k.kind == chunkInclude && k.ports.Last-k.ports.First != k.listen.Last-k.listen.First {
			return nil, false
		}
		chunks = append(chunks, k)
		if c == "" {
			return chunks, true
		}
		if !c.literal(",") {
			return nil, false
		}
	}
}

package pesto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/usernet/usernet/compat/pasta/forward"
)

// Version is the version of the protocol.
const Version = 2

// The sizes of the protocol, in bytes.
const (
	nameSize   = 128
	deviceSize = 16
	ruleSize   = 16 + 16 + deviceSize + 3*2 + 2
	helloSize  = 8 + 3*4
)

// maxInterfaces is how many there can be: more than pasta has.
const maxInterfaces = 3

var magic = [8]byte{'b', 'a', 's', 'i', 'l', ':', 's', 0}

// The interfaces of pasta, by the names that both programs look for.
const (
	Host   = "HOST"   // connections from the host to the namespace
	Splice = "SPLICE" // connections from the namespace to the host's loopback
)

// Interface is a place where connections come from, with its rules.
type Interface struct {
	ID    uint8 // never 0
	Name  string
	Table forward.Table
}

// WriteState is all that a server says: the hello, and how things stand.
func WriteState(w io.Writer, have []Interface) error {
	var b bytes.Buffer
	b.Write(magic[:])
	b.Write(binary.BigEndian.AppendUint32(nil, Version))
	b.Write(binary.BigEndian.AppendUint32(nil, nameSize))
	b.Write(binary.BigEndian.AppendUint32(nil, deviceSize))
	for _, i := range have {
		b.WriteByte(i.ID)
		var name [nameSize]byte
		copy(name[:nameSize-1], i.Name)
		b.Write(name[:])
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(i.Table.Caps)))
		writeRules(&b, i.Table.Rules)
	}
	b.WriteByte(0)
	_, err := w.Write(b.Bytes())
	return err
}

// WriteUpdate is all that a client says: how things are to be.
func WriteUpdate(w io.Writer, want []Interface) error {
	var b bytes.Buffer
	for _, i := range want {
		b.WriteByte(i.ID)
		writeRules(&b, i.Table.Rules)
	}
	b.WriteByte(0)
	_, err := w.Write(b.Bytes())
	return err
}

// ReadState reads what WriteState wrote. The rules are as the server has them, also those that no Table would take, so
// that they can be shown. The errors are sentences for the user.
func ReadState(r io.Reader) ([]Interface, error) {
	if err := readHello(r); err != nil {
		return nil, err
	}
	var have []Interface
	for {
		id, err := readByte(r)
		if err != nil {
			return nil, fmt.Errorf("Error reading from control socket: %w", err)
		}
		if id == 0 {
			return have, nil
		}
		if len(have) == maxInterfaces {
			return nil, fmt.Errorf("passt has more pifs than pesto can manage (max %d)", maxInterfaces)
		}
		i, err := readInterface(r, id)
		if err != nil {
			return nil, err
		}
		for _, o := range have {
			switch {
			case o.ID == i.ID:
				return nil, errors.New("Received duplicate interface identifier")
			case o.Name == i.Name:
				return nil, errors.New("Received duplicate interface name")
			}
		}
		have = append(have, i)
	}
}

func readHello(r io.Reader) error {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("Couldn't read server greeting: %w", err)
	}
	version, name, device := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:])
	switch {
	case [8]byte(b[:8]) != magic:
		return errors.New("Bad magic number from server")
	case version > Version:
		return fmt.Errorf("Unknown server protocol version %d > %d", version, Version)
	case version == 0:
		return errors.New("Unsupported experimental server protocol")
	case version < Version:
		return fmt.Errorf("Unsupported server protocol version %d < %d", version, Version)
	case name != nameSize:
		return fmt.Errorf("Server has unexpected pif name size (%d not %d)", name, nameSize)
	case device != deviceSize:
		return fmt.Errorf("Server has unexpected IFNAMSIZ (%d not %d)", device, deviceSize)
	}
	return nil
}

func readInterface(r io.Reader, id uint8) (Interface, error) {
	var b [nameSize + 8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Interface{}, fmt.Errorf("Error reading from control socket: %w", err)
	}
	name, ok := text(b[:nameSize])
	if !ok {
		return Interface{}, errors.New("Interface name was not NULL terminated")
	}
	count := binary.BigEndian.Uint32(b[nameSize+4:])
	if count > forward.MaxRules {
		return Interface{}, errors.New("Too many forwarding rules")
	}
	i := Interface{ID: id, Name: name, Table: forward.Table{Caps: forward.Caps(binary.BigEndian.Uint32(b[nameSize:]))}}
	for range count {
		rule, err := readRule(r)
		if err != nil {
			return Interface{}, fmt.Errorf("Error reading from control socket: %w", err)
		}
		i.Table.Rules = append(i.Table.Rules, rule)
	}
	return i, nil
}

// ReadUpdate reads what a client wants of the interfaces there are. Those it does not speak of stay as they are. ok is
// false when the client hung up without a wish. have is not changed.
func ReadUpdate(r io.Reader, have []Interface) (want []Interface, ok bool, err error) {
	for _, i := range have {
		want = append(want, Interface{i.ID, i.Name, i.Table.Clone()})
	}
	seen := map[uint8]bool{}
	for first := true; ; first = false {
		id, err := readByte(r)
		if first && errors.Is(err, io.EOF) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read update: %w", err)
		}
		if id == 0 {
			return want, true, nil
		}
		if seen[id] {
			return nil, false, fmt.Errorf("Received rules for interface %d twice", id)
		}
		seen[id] = true
		if err := readTable(r, id, want); err != nil {
			return nil, false, err
		}
	}
}

// readTable reads the new rules of one of want.
func readTable(r io.Reader, id uint8, want []Interface) error {
	var table *forward.Table
	for i := range want {
		if want[i].ID == id {
			table = &want[i].Table
		}
	}
	if table == nil {
		return errors.New("Received rules for non-existent table")
	}
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read update: %w", err)
	}
	count := binary.BigEndian.Uint32(b[:])
	if count > forward.MaxRules {
		return fmt.Errorf("Received %d rules (maximum %d)", count, forward.MaxRules)
	}
	table.Rules = nil
	for range count {
		rule, err := readRule(r)
		if err == nil {
			err = table.Add(rule)
		}
		if err != nil {
			return fmt.Errorf("read update: %w", err)
		}
	}
	return nil
}

func writeRules(b *bytes.Buffer, rules []forward.Rule) {
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(rules))))
	for _, r := range rules {
		addr, to := r.Addr.As16(), [16]byte{}
		if r.To.IsValid() {
			to = r.To.As16()
		}
		b.Write(addr[:])
		b.Write(to[:])
		var dev [deviceSize]byte
		copy(dev[:deviceSize-1], r.Device)
		b.Write(dev[:])
		for _, port := range []uint16{r.First, r.Last, r.ToPort} {
			b.Write(binary.BigEndian.AppendUint16(nil, port))
		}
		b.Write([]byte{byte(r.Proto), byte(r.Flags)})
	}
}

func readRule(r io.Reader) (forward.Rule, error) {
	var b [ruleSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return forward.Rule{}, err
	}
	const ports = 32 + deviceSize
	dev, ok := text(b[32:ports])
	if !ok {
		return forward.Rule{}, errors.New("Interface name was not NULL terminated")
	}
	rule := forward.Rule{
		Addr: netip.AddrFrom16([16]byte(b[:16])).Unmap(), Device: dev,
		First: binary.BigEndian.Uint16(b[ports:]), Last: binary.BigEndian.Uint16(b[ports+2:]),
		ToPort: binary.BigEndian.Uint16(b[ports+4:]),
		Proto:  forward.Proto(b[ports+6]), Flags: forward.Flags(b[ports+7]),
	}
	if to := netip.AddrFrom16([16]byte(b[16:32])).Unmap(); !to.IsUnspecified() {
		rule.To = to
	}
	return rule, nil
}

// text is what stands before the first zero.
func text(b []byte) (string, bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", false
	}
	return string(b[:i]), true
}

func readByte(r io.Reader) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

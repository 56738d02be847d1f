package rootlesstests

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// rawTCP is a container's TCP made by hand, for segments that no kernel would send. The sandbox's own kernel has
// no addresses then, and so does not answer what comes back.
type rawTCP struct {
	t       *testing.T
	sb      *rig.Sandbox
	link    *rig.PacketSocket
	gateway l2.MAC
	ports   uint16
}

// newRawTCP takes the addresses of a sandbox for itself.
func newRawTCP(t *testing.T, sb *rig.Sandbox) *rawTCP {
	t.Helper()
	r := &rawTCP{t: t, sb: sb, gateway: gatewayMAC(t, sb), ports: 40000}
	r.link = sb.OpenPacket(t, rig.DevEth0)
	sb.Run(t, "ip", "addr", "flush", "dev", rig.DevEth0)
	return r
}

// rawConn is one connection of it.
type rawConn struct {
	*rawTCP
	from, to netip.AddrPort
	seq, ack uint32 // next to send, next expected
	// clock is the timestamp that a SYN with the option had: all segments have one then (RFC 7323 §3.2).
	clock *uint32
}

// open makes a connection that has sent nothing yet, from a new port.
func (r *rawTCP) open(from netip.Addr, to netip.AddrPort) *rawConn {
	r.ports++
	return &rawConn{rawTCP: r, from: at(from, r.ports), to: to, seq: rand.Uint32()}
}

// segment makes a segment with options and an urgent pointer.
func (c *rawConn) segment(flags uint8, urgent uint16, options, data []byte) []byte {
	h := make([]byte, 20, 60+len(data))
	binary.BigEndian.PutUint16(h, c.from.Port())
	binary.BigEndian.PutUint16(h[2:], c.to.Port())
	binary.BigEndian.PutUint32(h[4:], c.seq)
	binary.BigEndian.PutUint32(h[8:], c.ack)
	h[12], h[13] = byte(5+(len(options)+3)/4)<<4, flags
	binary.BigEndian.PutUint16(h[14:], 0xffff)
	binary.BigEndian.PutUint16(h[18:], urgent)
	h = append(h, options...)
	for len(h)%4 != 0 {
		h = append(h, 0)
	}
	return packettest.IP(c.from.Addr(), c.to.Addr(), packettest.ProtoTCP, append(h, data...))
}

// send sends a packet of the connection.
func (c *rawConn) send(packet []byte) { c.link.SendPacket(c.t, c.gateway, packet) }

// mine matches what comes for the connection.
func (c *rawConn) mine(d packettest.Decoded) bool {
	return d.Proto == packettest.ProtoTCP && d.Src == c.to && d.Dst == c.from
}

// answer waits for the next segment that has one of the flags.
func (c *rawConn) answer(flags uint8, limit time.Duration) (packettest.Decoded, bool) {
	d, _, err := c.link.Receive(limit, func(d packettest.Decoded) bool { return c.mine(d) && d.Flags&flags != 0 })
	return d, err == nil
}

// connect makes the handshake, with options in the SYN, and reports whether it came about.
func (c *rawConn) connect(options []byte, limit time.Duration) bool {
	c.t.Helper()
	c.send(c.segment(packettest.SYN, 0, options, nil))
	d, ok := c.answer(packettest.SYN|packettest.RST, limit)
	if !ok || d.Flags&packettest.RST != 0 {
		return false
	}
	c.seq++
	c.ack = d.Seq + 1
	if len(options) >= 10 && options[0] == 8 && options[1] == 10 {
		clock := binary.BigEndian.Uint32(options[2:])
		c.clock = &clock
	}
	c.put(0, 0, nil)
	return true
}

// put sends data and counts it as sent.
func (c *rawConn) put(flags uint8, urgent uint16, data []byte) {
	var options []byte
	if c.clock != nil {
		*c.clock++
		options = append(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, *c.clock), 0, 0, 0, 0)
	}
	c.send(c.segment(flags|packettest.ACK, urgent, options, data))
	c.seq += uint32(len(data))
	if flags&packettest.FIN != 0 {
		c.seq++
	}
}

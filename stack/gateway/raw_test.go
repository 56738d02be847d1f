package gateway

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/ip"
)

// client is the container's end of one TCP connection, moved by hand: it sends what it is told and
// answers nothing by itself.
type client struct {
	b        *bench
	src, dst netip.AddrPort
	seq, ack uint32 // next of ours, and next we expect
	window   uint16
	isn      uint32
	synOpts  []byte
	opts     []byte // of every segment after the SYN; padded by the test
	synAck   segment
}

// tcpPacket makes a segment with everything a hostile sender can choose.
func tcpPacket(src, dst netip.AddrPort, flags uint8, seq, ack uint32, window, urgent uint16, opts, payload []byte) []byte {
	for len(opts)%4 != 0 {
		opts = append(opts[:len(opts):len(opts)], 0)
	}
	h := make([]byte, 20, 20+len(opts)+len(payload))
	binary.BigEndian.PutUint16(h, src.Port())
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13] = byte(5+len(opts)/4)<<4, flags
	binary.BigEndian.PutUint16(h[14:], window)
	binary.BigEndian.PutUint16(h[18:], urgent)
	return packettest.IP(src.Addr(), dst.Addr(), ip.TCP, append(append(h, opts...), payload...))
}

// newClient makes an end that has sent nothing.
func (b *bench) newClient(sport uint16) *client {
	return &client{b: b, src: netip.AddrPortFrom(container4, sport), dst: ap(outside4), isn: 1000, seq: 1000, window: 0xffff, synOpts: []byte{2, 4, 1460 >> 8, 1460 & 0xff}}
}

// connect opens a connection and returns both ends.
func (b *bench) connect(o *outside) (*client, *net.TCPConn) {
	b.t.Helper()
	c := b.newClient(1000)
	return c, c.open(o)
}

// syn sends the SYN and waits for its answer.
func (c *client) syn() segment {
	c.b.t.Helper()
	c.b.send(tcpPacket(c.src, c.dst, packettest.SYN, c.isn, 0, c.window, 0, c.synOpts, nil))
	c.seq = c.isn + 1
	c.synAck = c.next("SYN-ACK", func(p segment) bool { return p.Flags&packettest.SYN != 0 })
	c.ack = c.synAck.Seq + 1
	return c.synAck
}

// open makes the handshake and returns the outside's end.
func (c *client) open(o *outside) *net.TCPConn {
	c.b.t.Helper()
	c.syn()
	h := o.accept(c.b.t)
	h.SetDeadline(time.Now().Add(2 * packetWait))
	c.send(packettest.ACK, nil)
	waitFor(c.b.t, func() bool { return c.b.gw.handshakes.inFlight() == 0 })
	return h
}

// send sends a segment at seq and moves seq on.
func (c *client) send(flags uint8, payload []byte) {
	c.sendAt(flags, c.seq, c.ack, payload)
	c.seq += uint32(len(payload))
	if flags&(packettest.FIN|packettest.SYN) != 0 {
		c.seq++
	}
}

func (c *client) sendAt(flags uint8, seq, ack uint32, payload []byte) {
	c.b.send(tcpPacket(c.src, c.dst, flags, seq, ack, c.window, 0, c.opts, payload))
}

func (c *client) write(p []byte) { c.send(packettest.ACK|packettest.PSH, p) }

// next waits for a segment of this connection.
func (c *client) next(what string, match func(p segment) bool) segment {
	c.b.t.Helper()
	return c.b.next(what, func(p segment) bool { return c.mine(p) && match(p) })
}

// mine reports whether a packet is for this connection.
func (c *client) mine(p segment) bool { return p.Proto == ip.TCP && p.Src == c.dst && p.Dst == c.src }

// acked waits until the gateway acknowledged seq.
func (c *client) acked(seq uint32) segment {
	c.b.t.Helper()
	return c.next("ACK", func(p segment) bool { return p.Flags&packettest.ACK != 0 && int32(p.Ack-seq) >= 0 })
}

// read takes n bytes in order, acknowledging each segment, and tells the smallest MSS of a segment but
// the last.
func (c *client) read(n int) (got []byte, least int) {
	c.b.t.Helper()
	least = 1 << 16
	for len(got) < n {
		p := c.next("data", func(p segment) bool { return len(p.Payload) > 0 && p.Seq == c.ack })
		size := len(p.Payload)
		if p.gso > 0 {
			size = min(size, p.gso)
		}
		if got = append(got, p.Payload...); len(got) < n {
			least = min(least, size)
		}
		c.ack += uint32(len(p.Payload))
		c.send(packettest.ACK, nil)
	}
	return got, least
}

// readFull reads exactly want from the outside's end.
func readFull(t testing.TB, h io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(h, b); err != nil || string(b) != want {
		t.Fatalf("outside read %q, %v, want %q", b[:n], err, want)
	}
}

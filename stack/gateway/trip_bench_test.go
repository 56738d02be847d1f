package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/l2"
)

// These do one thing after another and never two at once, so that what each costs can be counted in instructions.

// BenchmarkRoundTrip sends a byte out and waits for the one that comes back. As with request and response, each acknowledges the
// one before.
func BenchmarkRoundTrip(b *testing.B) {
	o := newOutside(b)
	m, h := newMover(newBench(b, withDial(o.dial)), o)
	h.SetDeadline(time.Time{}) // under valgrind, on a busy machine, all takes long
	var echo sync.WaitGroup
	echo.Go(func() { _, _ = io.Copy(struct{ io.Writer }{h}, struct{ io.Reader }{h}) }) // ends when the bench closes h
	b.Cleanup(func() { h.Close(); echo.Wait() })
	packet := tcpPacket(m.src, m.dst, packettest.ACK|packettest.PSH, m.seq, m.ack, 0xffff, 0, nil, []byte("x"))
	m.frame[0] = packettest.Frame(containerMAC, testNet.GatewayMAC, packet)
	m.frame[0].VNet = l2.VNet{Flags: l2.VNetNeedsCsum, CsumStart: l2.HeaderLen + 20, CsumOffset: 16}
	b.ReportAllocs()
	for b.Loop() {
		binary.BigEndian.PutUint32(packet[24:], m.seq)
		binary.BigEndian.PutUint32(packet[28:], m.ack)
		m.b.frames(m.frame[:]...)
		m.seq++
		for m.ack++; m.seen.Load() != m.ack; {
			<-m.news
		}
	}
}

// caller opens connections one after another, and sees of what comes back only what the next step needs. On a slow machine segments
// come twice, and late.
type caller struct {
	b *bench

	mu          sync.Mutex
	news        sync.Cond
	port        uint16 // guarded by mu, as all that follows: of the connection that is being made
	isn         uint32 // the gateway's
	synAck, fin bool   // have come
	data        int    // segments with payload
}

func newCaller(b *bench) *caller {
	c := &caller{b: b}
	c.news.L = &c.mu
	see := c.see
	b.link.direct.Store(&see)
	return c
}

func (c *caller) see(fs []l2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range fs {
		t := fs[i].L3[0][20:]
		if binary.BigEndian.Uint16(t[2:]) != c.port {
			continue
		}
		if t[13]&packettest.SYN != 0 {
			c.isn, c.synAck = binary.BigEndian.Uint32(t[4:]), true
		}
		c.fin = c.fin || t[13]&packettest.FIN != 0
		size := -int(t[12]>>4) * 4
		for _, part := range fs[i].L3 {
			size += len(part)
		}
		if size > 20 { // the IP header
			c.data++
		}
	}
	c.news.Signal()
}

// begin is for a connection from port.
func (c *caller) begin(port uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.port, c.synAck, c.fin, c.data = port, false, false, 0
}

// awaitEnd waits for FIN. Data that comes a second time is acknowledged by ack: a sender that had to repeat it sends nothing more until then.
func (c *caller) awaitEnd(ack []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.fin {
		if c.data > 1 {
			c.data = 1
			c.mu.Unlock()
			c.b.send(ack)
			c.mu.Lock()
			continue
		}
		c.news.Wait()
	}
}

// await waits for SYN-ACK and returns the gateway's first sequence number.
func (c *caller) await() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.synAck {
		c.news.Wait()
	}
	return c.isn
}

// serve answers each connection's first byte with one and closes it, until the listener is closed.
func serve(o *outside) error {
	for {
		h, err := o.l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		var one [1]byte
		_, err = io.ReadFull(h, one[:])
		if err == nil {
			_, err = h.Write(one[:])
		}
		h.Close()
		if err != nil {
			return err
		}
	}
}

// BenchmarkConnect opens a connection, sends a byte, gets one and closes: what a short request costs.
func BenchmarkConnect(b *testing.B) {
	o := newOutside(b)
	c := newCaller(newBench(b, withDial(o.dial)))
	served := make(chan error, 1)
	go func() { served <- serve(o) }()
	dst := ap(outside4)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		src := netip.AddrPortFrom(container4, uint16(1024+i))
		c.begin(src.Port())
		c.b.send(tcpPacket(src, dst, packettest.SYN, 1000, 0, 0xffff, 0, []byte{2, 4, 1460 >> 8, 1460 & 0xff}, nil))
		isn := c.await()
		c.b.send(
			tcpPacket(src, dst, packettest.ACK, 1001, isn+1, 0xffff, 0, nil, nil),
			tcpPacket(src, dst, packettest.ACK|packettest.PSH, 1001, isn+1, 0xffff, 0, nil, []byte("x")))
		c.awaitEnd(tcpPacket(src, dst, packettest.ACK, 1002, isn+2, 0xffff, 0, nil, nil))
		c.b.send(tcpPacket(src, dst, packettest.ACK|packettest.FIN, 1002, isn+3, 0xffff, 0, nil, nil))
	}
	o.l.Close()
	if err := <-served; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkThinACKs gives the gateway a batch of a stream's ACKs, of which it takes the last.
func BenchmarkThinACKs(b *testing.B) {
	const acks = 64
	g := newBench(b)
	frames := make([]l2.Frame, acks)
	for i := range frames {
		frames[i] = *ackFrame(false, uint32(1000*(i+1)), nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		g.gw.Output(frames)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*acks), "ns/ACK")
}

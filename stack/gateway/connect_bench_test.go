package gateway

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/l2"
)

// caller is a container that makes one connection after the other to an echo server on the host, each with one round
// trip of one byte, and costs next to nothing itself.
type caller struct {
	b        *bench
	src, dst netip.AddrPort
	frame    [1]l2.Frame
	seq, ack uint32
	got      chan caught // what the gateway sent this connection
}

// caught is what matters of a segment of the gateway.
type caught struct {
	flags    uint8
	seq, len uint32
}

func newCaller(b *bench, server netip.AddrPort, port uint16) *caller {
	return &caller{
		b: b, src: netip.AddrPortFrom(container4, port), dst: netip.AddrPortFrom(testNet.Gateway4, server.Port()),
		got: make(chan caught, 8),
	}
}

func (c *caller) send(flags uint8, payload []byte) {
	c.frame[0] = packettest.Frame(containerMAC, testNet.GatewayMAC, tcpPacket(c.src, c.dst, flags, c.seq, c.ack, 0xffff, 0, nil, payload))
	c.b.gw.Output(c.frame[:])
	c.seq += uint32(len(payload))
	if flags&(packettest.SYN|packettest.FIN) != 0 {
		c.seq++
	}
}

// until waits for a segment with flags and returns it.
func (c *caller) until(flags uint8) caught {
	for {
		s := <-c.got
		c.ack = s.seq + s.len
		if s.flags&(packettest.SYN|packettest.FIN) != 0 {
			c.ack++
		}
		if s.flags&flags != 0 {
			return s
		}
	}
}

// connect makes one connection, from the next port of the caller's own.
func (c *caller) connect() {
	const first, last = 1024, 64000
	port := c.src.Port() + callers
	if port > last {
		port = first + port%callers
	}
	c.src, c.ack = netip.AddrPortFrom(container4, port), 0
	c.send(packettest.SYN, nil)
	c.until(packettest.SYN)
	c.send(packettest.ACK, nil)
	c.send(packettest.ACK|packettest.PSH, []byte("x"))
	c.until(packettest.PSH)
	c.send(packettest.ACK|packettest.FIN, nil)
	c.until(packettest.FIN)
	c.send(packettest.ACK, nil)
}

// callers is how many there are. A port belongs to the caller that it is a multiple of callers away from.
const callers = 16

// deliver gives callers what the gateway sends them.
func deliver(all [callers]*caller) func(fs []l2.Frame) {
	return func(fs []l2.Frame) {
		for i := range fs {
			t := fs[i].L3[0][20:]
			n := fs[i].Len() - 20 - int(t[12]>>4)*4
			all[binary.BigEndian.Uint16(t[2:])%callers].got <- caught{flags: t[13], seq: binary.BigEndian.Uint32(t[4:]), len: uint32(n)}
		}
	}
}

// echoServer answers what comes, on the host's loopback.
func echoServer(tb testing.TB) netip.AddrPort {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	for range 32 {
		go func() {
			var b [16]byte
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				for n := 0; err == nil; {
					if n, err = c.Read(b[:]); err == nil {
						_, err = c.Write(b[:n])
					}
				}
				c.Close()
			}
		}()
	}
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// BenchmarkConnection: connections to a server on the host, 16 at a time, each with one round trip. The kernel's share, the server's and that of
// TCP in the container are real ones, or left out.
func BenchmarkConnection(b *testing.B) {
	g := newBench(b, func(c *Config) { c.Spec.Policy.HostLoopback = true; c.Dial = nil })
	server := echoServer(b)
	var all [callers]*caller
	for i := range all {
		all[i] = newCaller(g, server, uint16(i))
	}
	direct := deliver(all)
	g.link.direct.Store(&direct)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	left := make(chan struct{}, b.N)
	for range b.N {
		left <- struct{}{}
	}
	close(left)
	for _, c := range all {
		wg.Go(func() {
			for range left {
				c.connect()
			}
		})
	}
	wg.Wait()
}

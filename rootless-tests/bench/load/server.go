package load

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// serverThreads serves the most connections that a measurement has in flight, with some to spare for
	// those that a relay closes late.
	serverThreads = 64
	// sinkBatch datagrams are received by one system call, so that counting them is not the bottleneck.
	sinkBatch = 64
	// sinkBuffer holds what arrives while the counting thread is not scheduled (the kernel caps it at rmem_max).
	sinkBuffer = 4 << 20
	// echoPatience is how long the thread that echoes datagrams is quiet about waiting for one: longer than any round trip, for
	// nobody who measures anything else.
	echoPatience = 100 * time.Millisecond
)

// Ports are where a server listens.
type Ports struct {
	TCP     uint16 `json:"tcp"`
	UDPEcho uint16 `json:"udp_echo"`
	UDPSink uint16 `json:"udp_sink"`
}

// server is the answering end. It lives as long as its process: nothing stops it but exit.
type server struct {
	received atomic.Uint64 // datagrams at the UDP sink

	mu   sync.Mutex
	idle []socket // connections kept by command I
}

// listen opens the three sockets and serves them in the background.
func (v *server) listen(want Ports) (got Ports, err error) {
	tcp, err := listen(unix.SOCK_STREAM, want.TCP)
	if err != nil {
		return got, err
	}
	echo, err := listen(unix.SOCK_DGRAM, want.UDPEcho)
	if err != nil {
		return got, err
	}
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(want.UDPSink)})
	if err != nil {
		return got, fmt.Errorf("listen on port %d: %w", want.UDPSink, err)
	}
	if err := sink.SetReadBuffer(sinkBuffer); err != nil {
		return got, fmt.Errorf("set receive buffer: %w", err)
	}
	if err := echo.setPatience(echoPatience); err != nil {
		return got, err
	}
	if got.TCP, err = tcp.port(); err != nil {
		return got, err
	}
	if got.UDPEcho, err = echo.port(); err != nil {
		return got, err
	}
	got.UDPSink = uint16(sink.LocalAddr().(*net.UDPAddr).Port)
	// They end with the process: an agent serves until its controller goes.
	for range serverThreads {
		go v.serveTCP(tcp)
	}
	go serveEcho(echo)
	go v.serveSink(sink)
	return got, nil
}

// serveTCP accepts and serves one connection after the other on a thread of its own: no hand-over between
// accepting a connection and answering it.
func (v *server) serveTCP(ln socket) {
	buf := make([]byte, chunk)
	for {
		c, err := ln.accept()
		if err != nil {
			continue // the client gave up; a listener itself does not break
		}
		if keep := v.serve(c, buf); !keep {
			c.close()
		}
	}
}

func (v *server) serve(c socket, buf []byte) (keep bool) {
	if err := c.readFull(buf[:1]); err != nil {
		return false
	}
	// The peer learns of an error by the connection's end; there is nobody else to tell.
	switch buf[0] {
	case cmdEcho:
		_ = c.write(buf[:1])
		for {
			n, err := c.read(buf)
			if n == 0 || err != nil || c.write(buf[:n]) != nil {
				return false
			}
		}
	case cmdIdle:
		v.mu.Lock()
		v.idle = append(v.idle, c)
		v.mu.Unlock()
		_ = c.write(buf[:1])
		return true
	case cmdUpload:
		h, err := readHeader(c)
		if err != nil {
			return false
		}
		res, err := receive(c, h, buf)
		if err != nil || c.write(res.encode()) != nil {
			return false
		}
		for n := 1; n > 0 && err == nil; { // until the client resets the connection
			n, err = c.read(buf)
		}
	case cmdDownload:
		h, err := readHeader(c)
		if err != nil {
			return false
		}
		// The client goes when it has enough. Its clock starts later than ours, nobody knows how much.
		for end := time.Now().Add(h.Warm + h.Window + ioTimeout); time.Now().Before(end); {
			if c.write(buf) != nil {
				return false
			}
		}
	}
	return false
}

// drop closes the idle connections and says how many there were.
func (v *server) drop() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.idle)
	for _, c := range v.idle {
		c.close()
	}
	v.idle = nil
	return n
}

// serveEcho returns datagrams to their senders, quietly while they follow each other. A datagram lost here is counted by the client as lost.
func serveEcho(s socket) {
	buf := make([]byte, 64<<10)
	for {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s), Events: unix.POLLIN}}, -1)
		for s.echo(buf) != errTimeout {
		}
	}
}

// serveSink counts datagrams.
func (v *server) serveSink(c *net.UDPConn) {
	p := ipv4.NewPacketConn(c)
	msgs := make([]ipv4.Message, sinkBatch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := p.ReadBatch(msgs, 0)
		if err == nil {
			v.received.Add(uint64(n))
		}
	}
}

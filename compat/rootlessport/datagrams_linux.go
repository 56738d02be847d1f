package rootlessport

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: datagrams
//
// portfwd.Forwarder makes a packet of each datagram of a client, for a Network, and expects packets back. Here the
// packet is taken apart again, and its payload sent from a socket inside that stands for its source; what that socket
// receives becomes a packet for the Forwarder. So the published sockets, their flows and their limits are those of every
// published port, for the price of some 50 bytes written and read in memory.
//
// A socket lives until nothing has passed for sockIdle, a little longer than the Forwarder remembers its flow.
const (
	sockIdle = 310 * time.Second
	// maxSocks is the Forwarder's limit of flows.
	maxSocks = 16384
)

// sockKey is a client as the container sees it, and the port it speaks to.
type sockKey struct{ from, to netip.AddrPort }

// datagrams implements ip.Emitter.
type datagrams struct {
	in *inside
	fw *portfwd.Forwarder // set before the first port is published

	mu     sync.Mutex
	socks  map[sockKey]*os.File // guarded by mu
	closed bool                 // guarded by mu
	wg     sync.WaitGroup       // a receiver for each socket
}

func newDatagrams(in *inside) *datagrams {
	return &datagrams{in: in, socks: make(map[sockKey]*os.File)}
}

// packetBuffers hold a packet each, while it is handled: a client that waits has none.
var packetBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, ip.HeaderLen6+ip.UDPHeaderLen+1<<16)
	return &b
}}

// EmitIP implements ip.Emitter: a datagram, or a train of them, to the container.
func (d *datagrams) EmitIP(_ netip.Addr, v l2.VNet, l3 [][]byte) bool {
	buf := packetBuffers.Get().(*[]byte)
	defer packetBuffers.Put(buf)
	b := (*buf)[:0]
	for _, part := range l3 {
		b = append(b, part...)
	}
	*buf = b
	var p ip.Packet
	if ip.ParsePacket(&p, b) != drop.None || p.Proto != ip.UDP {
		return false
	}
	sport, dport, ok := p.Ports()
	payload, ok2 := p.UDPPayload()
	if !ok || !ok2 {
		return false
	}
	f, err := d.sock(sockKey{netip.AddrPortFrom(p.Src, sport), netip.AddrPortFrom(p.Dst, dport)})
	if err != nil {
		return false
	}
	segment := len(payload)
	if v.GSOType&^l2.GSOECN == l2.GSOUDPL4 && v.GSOSize > 0 {
		segment = int(v.GSOSize)
	}
	for {
		n := min(segment, len(payload))
		if send(f, payload[:n]) != nil {
			return false
		}
		if payload = payload[n:]; len(payload) == 0 {
			return true
		}
	}
}

// send sends one datagram. A port that was closed a moment ago refuses the first attempt after that only.
func send(f *os.File, payload []byte) error {
	_ = f.SetDeadline(time.Now().Add(sockIdle))
	_, err := f.Write(payload)
	if errors.Is(err, syscall.ECONNREFUSED) {
		_, err = f.Write(payload)
	}
	return err
}

// sock returns the socket of a client, which it makes if there is none.
func (d *datagrams) sock(k sockKey) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch f := d.socks[k]; {
	case f != nil:
		return f, nil
	case d.closed:
		return nil, net.ErrClosed
	case len(d.socks) >= maxSocks:
		return nil, syscall.ENFILE
	}
	fd, release, err := d.in.socket(unix.SOCK_DGRAM, k.from, k.to)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sockaddr(k.to)); err != nil {
		unix.Close(fd)
		release()
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "datagrams of "+k.from.String())
	_ = f.SetDeadline(time.Now().Add(sockIdle))
	d.socks[k] = f
	d.wg.Go(func() {
		defer release()
		d.receive(k, f)
	})
	return f, nil
}

// receive hands what the container answers to the Forwarder, until the socket is idle or closed.
func (d *datagrams) receive(k sockKey, f *os.File) {
	defer d.end(k, f)
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var answer error
		err := rc.Read(func(fd uintptr) bool {
			answer = d.answer(k, int(fd))
			return !errors.Is(answer, syscall.EAGAIN)
		})
		switch {
		case err != nil:
			return
		case errors.Is(answer, syscall.ECONNREFUSED), errors.Is(answer, syscall.EINTR):
			// The container has no such port now; the client cannot be told.
		case answer != nil:
			return
		default:
			_ = f.SetDeadline(time.Now().Add(sockIdle))
		}
	}
}

// answer takes one datagram of the container to the Forwarder.
func (d *datagrams) answer(k sockKey, fd int) error {
	buf := packetBuffers.Get().(*[]byte)
	defer packetBuffers.Put(buf)
	b := (*buf)[:cap(*buf)]
	head := ip.UDPHeadersLen(k.to.Addr())
	n, err := unix.Read(fd, b[head:])
	if err != nil {
		return err
	}
	if ip.PutUDPHeaders(b, k.to, k.from, n, ip.UDPOpts{Payload: b[head : head+n]}) == 0 {
		return nil // larger than a packet can be
	}
	var p ip.Packet
	if ip.ParsePacket(&p, b[:head+n]) == drop.None {
		d.fw.InputUDP(&p)
		d.fw.Flush()
	}
	return nil
}

// end forgets a socket.
func (d *datagrams) end(k sockKey, f *os.File) {
	d.mu.Lock()
	if d.socks[k] == f {
		delete(d.socks, k)
	}
	d.mu.Unlock()
	_ = f.Close()
}

// close ends all sockets and waits.
func (d *datagrams) close() {
	d.mu.Lock()
	d.closed = true
	for _, f := range d.socks {
		_ = f.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

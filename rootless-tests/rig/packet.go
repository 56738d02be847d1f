package rig

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/l2"
)

// PacketSocket sends and receives whole frames on one device of a node.
type PacketSocket struct {
	MAC  l2.MAC // of the device
	node string
	f    *os.File
}

// OpenPacket opens a packet socket on a device of the node. It receives what goes out there, too. It is closed
// with the test.
func (n *Node) OpenPacket(t testing.TB, dev string) *PacketSocket {
	t.Helper()
	p, err := n.openPacket(dev)
	if err != nil {
		t.Fatalf("open packet socket on %s of %s: %v", dev, n.Name, err)
	}
	t.Cleanup(func() { p.f.Close() })
	return p
}

func (n *Node) openPacket(dev string) (*PacketSocket, error) {
	f, err := n.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0) // protocol 0: nothing is received before bind
	if err != nil {
		return nil, err
	}
	p := &PacketSocket{node: n.Name, f: f}
	err = onFD(f, func(fd int) error {
		ifr, err := unix.NewIfreq(dev)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return fmt.Errorf("find device: %w", err)
		}
		index := int(ifr.Uint32())
		if p.MAC, err = hardwareAddr(fd, dev); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20); err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: all})
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// hardwareAddr asks for the MAC of a device by a socket of its namespace.
func hardwareAddr(fd int, dev string) (l2.MAC, error) {
	// struct ifreq with the address in a struct sockaddr, which package unix does not give out.
	var ifr struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		addr   [22]byte
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], dev)
	if err := ioctl(fd, unix.SIOCGIFHWADDR, &ifr); err != nil {
		return l2.MAC{}, fmt.Errorf("get MAC: %w", err)
	}
	return l2.MAC(ifr.addr[:6]), nil
}

// Send sends one frame.
func (p *PacketSocket) Send(frame []byte) error {
	_, err := p.f.Write(frame)
	return err
}

// MustSend sends frames.
func (p *PacketSocket) MustSend(t testing.TB, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if err := p.Send(f); err != nil {
			t.Fatalf("%s: send frame of %d bytes: %v", p.node, len(f), err)
		}
	}
}

// SendPacket sends an IP packet in a frame to dst.
func (p *PacketSocket) SendPacket(t testing.TB, dst l2.MAC, packet []byte) {
	t.Helper()
	p.MustSend(t, packettest.Bytes(packettest.Frame(p.MAC, dst, packet)))
}

// File is the socket itself, for options; it stays the PacketSocket's.
func (p *PacketSocket) File() *os.File { return p.f }

// Receive returns the next frame that match accepts, or os.ErrDeadlineExceeded after limit.
func (p *PacketSocket) Receive(limit time.Duration, match func(d packettest.Decoded) bool) (packettest.Decoded, []byte, error) {
	if err := p.f.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return packettest.Decoded{}, nil, err
	}
	buf := make([]byte, 1<<17)
	for {
		n, err := p.f.Read(buf)
		if err != nil {
			return packettest.Decoded{}, nil, err
		}
		if n < l2.HeaderLen {
			continue
		}
		f := append([]byte(nil), buf[:n]...)
		if d, err := packettest.Decode(packettest.Raw(f)); err == nil && match(d) {
			return d, f, nil
		}
	}
}

// Capture counts the packets on a device that match.
type Capture struct {
	match func(d packettest.Decoded) bool
	done  chan struct{}
	p     *PacketSocket

	mu   sync.Mutex
	seen []packettest.Decoded
}

// Capture watches a device of the node, in both directions, from now on and until the test ends. What does not
// decode as IP is not seen.
func (n *Node) Capture(t testing.TB, dev string, match func(d packettest.Decoded) bool) *Capture {
	t.Helper()
	c := &Capture{match: match, done: make(chan struct{}), p: n.OpenPacket(t, dev)}
	go c.run(t)
	t.Cleanup(func() {
		c.p.f.Close()
		<-c.done
	})
	return c
}

func (c *Capture) run(t testing.TB) {
	defer close(c.done)
	buf := make([]byte, 1<<17)
	for {
		n, err := c.p.f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			t.Errorf("capture: %v", err)
			return
		}
		if n < l2.HeaderLen {
			continue
		}
		d, err := packettest.Decode(packettest.Raw(append([]byte(nil), buf[:n]...)))
		if err == nil && c.match(d) {
			c.mu.Lock()
			c.seen = append(c.seen, d)
			c.mu.Unlock()
		}
	}
}

// Seen returns what matched up to now. A test that expects nothing first lets a packet pass that it expects.
func (c *Capture) Seen() []packettest.Decoded {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]packettest.Decoded(nil), c.seen...)
}

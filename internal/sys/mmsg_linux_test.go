package sys

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func listenUDP(t testing.TB, network, addr string) (*net.UDPConn, syscall.RawConn, netip.AddrPort) {
	t.Helper()
	pc, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	c := pc.(*net.UDPConn)
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ap := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return c, rc, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

var families = []struct {
	network, addr string
	v6            bool
}{{"udp4", "127.0.0.1:0", false}, {"udp6", "[::1]:0", true}}

func TestBatchRoundTrip(t *testing.T) {
	for _, f := range families {
		t.Run(f.network, func(t *testing.T) {
			_, src, from := listenUDP(t, f.network, f.addr)
			_, dst, to := listenUDP(t, f.network, f.addr)
			if err := SetOptions(dst, f.v6, OptPktInfo|OptTTL); err != nil {
				t.Fatal(err)
			}
			send := NewSendBatch(8, 2)
			for i := range 5 {
				m := Datagram{To: to, Data: [][]byte{fmt.Appendf(nil, "head%d", i), nil, []byte("tail")}, TTL: 33, TOS: 0xb8, Local: from.Addr()}
				if i == 4 {
					m.Data = nil // an empty datagram is a datagram
				}
				if !send.Add(&m) {
					t.Fatalf("Add %d: full", i)
				}
			}
			if n, err := send.Send(src); n != 5 || err != nil {
				t.Fatalf("Send = %d, %v", n, err)
			}
			recv := NewRecvBatch(8, 2048)
			n, err := recv.Recv(dst)
			if n != 5 || err != nil {
				t.Fatalf("Recv = %d, %v", n, err)
			}
			if got, want := recv.Bytes(), 4*len("head0tail"); got != want {
				t.Errorf("Bytes = %d, want %d", got, want)
			}
			for i := range n {
				m := recv.Message(i)
				want := fmt.Sprintf("head%dtail", i)
				if i == 4 {
					want = ""
				}
				if string(m.Data) != want || m.From != from || m.Local != to.Addr() || m.TTL != 33 || m.TOS != 0xb8 || m.IfIndex == 0 || m.Truncated {
					t.Errorf("message %d = %+v", i, m)
				}
			}
			if _, err := recv.TryRecv(dst); err != unix.EAGAIN || recv.Bytes() != 0 {
				t.Errorf("TryRecv on an empty socket: %v, %d bytes", err, recv.Bytes())
			}
		})
	}
}

func TestBatchSegmentsAndGRO(t *testing.T) {
	for _, f := range families {
		t.Run(f.network, func(t *testing.T) {
			_, src, _ := listenUDP(t, f.network, f.addr)
			_, dst, to := listenUDP(t, f.network, f.addr)
			if err := SetOptions(dst, f.v6, OptUDPGRO); err != nil {
				t.Fatal(err)
			}
			payload := bytes.Repeat([]byte("0123456789"), 500)
			send := NewSendBatch(1, 1)
			send.Add(&Datagram{To: to, Data: [][]byte{payload}, Segment: 1200})
			if n, err := send.Send(src); n != 1 || err != nil {
				t.Fatalf("Send = %d, %v", n, err)
			}
			recv := NewRecvBatch(8, 65535)
			var got []byte
			for len(got) < len(payload) {
				n, err := recv.Recv(dst)
				if err != nil {
					t.Fatal(err)
				}
				for i := range n {
					m := recv.Message(i)
					if m.Segment != 1200 && len(m.Data) > 1200 {
						t.Errorf("segment size %d of %d bytes", m.Segment, len(m.Data))
					}
					got = append(got, m.Data...)
				}
			}
			if !bytes.Equal(got, payload) {
				t.Error("payload differs")
			}
		})
	}
}

func TestBatchLimits(t *testing.T) {
	_, src, _ := listenUDP(t, "udp4", "127.0.0.1:0")
	_, dst, to := listenUDP(t, "udp4", "127.0.0.1:0")
	send := NewSendBatch(2, 2)
	ok := Datagram{To: to, Data: [][]byte{[]byte("ok")}}
	if !send.Add(&ok) || send.Add(&Datagram{To: to, Data: make([][]byte, 4)}) {
		t.Error("Add beyond the iovecs must be refused and change nothing")
	}
	if !send.Add(&Datagram{To: to, Data: [][]byte{make([]byte, 70000)}}) || send.Add(&ok) {
		t.Error("Add beyond Cap must be refused")
	}
	// The datagram that is too long is skipped, its neighbour is not.
	n, err := send.Send(src)
	if n != 1 || !errors.Is(err, unix.EMSGSIZE) || send.Err(0) != 0 || send.Err(1) != unix.EMSGSIZE || send.Len() != 0 {
		t.Errorf("Send = %d, %v; %v, %v", n, err, send.Err(0), send.Err(1))
	}
	recv := NewRecvBatch(2, 1)
	if n, err := recv.Recv(dst); n != 1 || err != nil || !recv.Message(0).Truncated {
		t.Errorf("Recv = %d, %v, want one truncated message", n, err)
	}
}

func TestRecvEndsOnClose(t *testing.T) {
	c, rc, _ := listenUDP(t, "udp4", "127.0.0.1:0")
	r := NewReceiver(rc, NewBatchPool(4, 64))
	done := make(chan error)
	go func() { _, err := r.Recv(); done <- err }()
	c.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Recv after Close: %v", err)
	}
}

func TestErrQueue(t *testing.T) {
	for _, f := range families {
		t.Run(f.network, func(t *testing.T) {
			dead, _, to := listenUDP(t, f.network, f.addr)
			dead.Close()
			_, src, _ := listenUDP(t, f.network, f.addr)
			if err := SetOptions(src, f.v6, OptRecvErr); err != nil {
				t.Fatal(err)
			}
			q := NewErrQueue()
			if _, err := q.Read(src); err != unix.EAGAIN {
				t.Fatalf("Read of an empty queue: %v", err)
			}
			send := NewSendBatch(2, 1)
			send.Add(&Datagram{To: to, Data: [][]byte{[]byte("hello")}})
			if n, err := send.Send(src); n != 1 {
				t.Fatalf("Send = %d, %v", n, err)
			}
			// The poller wakes the receiver, which gets the errno once.
			if _, err := NewRecvBatch(1, 64).Recv(src); err != unix.ECONNREFUSED {
				t.Fatalf("Recv: %v, want ECONNREFUSED", err)
			}
			e, err := q.Read(src)
			if err != nil {
				t.Fatal(err)
			}
			origin := OriginICMP
			if f.v6 {
				origin = OriginICMP6
			}
			if e.Errno != unix.ECONNREFUSED || e.Origin != origin || e.Dst != to || e.Offender != to.Addr() || string(e.Payload) != "hello" {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

// An ICMP error about one datagram must not swallow the next.
func TestSendAfterICMPError(t *testing.T) {
	dead, _, nobody := listenUDP(t, "udp4", "127.0.0.1:0")
	dead.Close()
	_, src, _ := listenUDP(t, "udp4", "127.0.0.1:0")
	_, dst, to := listenUDP(t, "udp4", "127.0.0.1:0")
	if err := SetOptions(src, false, OptRecvErr); err != nil {
		t.Fatal(err)
	}
	send := NewSendBatch(2, 1)
	send.Add(&Datagram{To: nobody, Data: [][]byte{[]byte("lost")}})
	send.Send(src)
	send.Add(&Datagram{To: to, Data: [][]byte{[]byte("kept")}})
	if n, err := send.Send(src); n != 1 || err != nil {
		t.Fatalf("Send = %d, %v", n, err)
	}
	recv := NewRecvBatch(1, 64)
	if _, err := recv.Recv(dst); err != nil || string(recv.Message(0).Data) != "kept" {
		t.Errorf("Recv: %v, %q", err, recv.Message(0).Data)
	}
}

// raceDetector: sync.Pool forgets at random then, so allocations say nothing.
var raceDetector bool

func TestBatchAllocs(t *testing.T) {
	_, src, _ := listenUDP(t, "udp6", "[::1]:0")
	_, dst, to := listenUDP(t, "udp6", "[::1]:0")
	if err := SetOptions(dst, true, OptPktInfo|OptTTL); err != nil {
		t.Fatal(err)
	}
	send, pool := NewSendBatch(16, 1), NewBatchPool(16, 64)
	recv := NewReceiver(dst, pool)
	data := [][]byte{[]byte("payload")}
	if n := testing.AllocsPerRun(100, func() {
		for range 16 {
			send.Add(&Datagram{To: to, Data: data, TTL: 9})
		}
		if n, err := send.Send(src); n != 16 {
			t.Fatal(n, err)
		}
		for got := 0; got < 16; {
			b, err := recv.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Len() {
				if m := b.Message(i); m.TTL != 9 {
					t.Fatal(m)
				}
			}
			got += b.Len()
			pool.Put(b)
		}
	}); n > 0.5 && !raceDetector { // the pool may be emptied by a collection
		t.Errorf("%v allocations per batch, want 0", n)
	}
}

package pasta

import (
	"net"
	"testing"

	"github.com/usernet/usernet/compat/pasta/forward"
)

// TestListening: the kernel tells of what listens, and not of what is connected.
func TestListening(t *testing.T) {
	l, err := hostListener()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	client, err := net.Dial("tcp4", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	udp, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	connected, err := net.Dial("udp6", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	for range 2 { // a look leaves nothing behind for the next
		for _, c := range []struct {
			proto forward.Proto
			port  int
			want  bool
		}{
			{forward.TCP, tcp.Addr().(*net.TCPAddr).Port, true}, {forward.TCP, client.LocalAddr().(*net.TCPAddr).Port, false},
			{forward.UDP, udp.LocalAddr().(*net.UDPAddr).Port, true}, {forward.UDP, connected.LocalAddr().(*net.UDPAddr).Port, false},
		} {
			got, err := l.ports(c.proto)
			if err != nil || got[uint16(c.port)] != c.want {
				t.Errorf("%v port %d: %v, %v", c.proto, c.port, got[uint16(c.port)], err)
			}
		}
	}
}

// FuzzParseSockets: the descriptor comes from the namespace, so what is read from it may be anything.
func FuzzParseSockets(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(append([]byte{88, 0, 0, 0, 20, 0}, make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseSockets(b, bound{})
	})
}

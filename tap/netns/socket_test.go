package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/usernet/usernet/cnm/plumb"
)

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// TestOpenSockets: each kind is what it is asked to be, in order.
func TestOpenSockets(t *testing.T) {
	lo4, lo6 := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")
	files, err := OpenSockets([]plumb.Socket{
		{Network: plumb.TCP4, Listen: lo4}, {Network: plumb.TCP6, Listen: lo6}, {Network: plumb.UDP4, Listen: lo4},
		{Network: plumb.UDP6, Listen: lo6}, {Network: plumb.TCP4}, {Network: plumb.UDP6},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	for i, f := range files[:4] {
		if i < 2 {
			ln, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			continue
		}
		pc, err := net.FilePacketConn(f)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		if a := pc.LocalAddr().(*net.UDPAddr); !a.IP.IsLoopback() || a.Port == 0 {
			t.Errorf("socket %d is bound to %v", i, a)
		}
	}
	for _, f := range files[4:] {
		sa, err := syscall.Getsockname(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		switch sa := sa.(type) {
		case *syscall.SockaddrInet4:
			if sa.Port != 0 {
				t.Errorf("%s has port %d", f.Name(), sa.Port)
			}
		case *syscall.SockaddrInet6:
			if sa.Port != 0 {
				t.Errorf("%s has port %d", f.Name(), sa.Port)
			}
		}
	}
}

// TestOpenSocketsRefused: one that cannot be made is an error that names it, and none is made.
func TestOpenSocketsRefused(t *testing.T) {
	held, err := OpenSockets([]plumb.Socket{{Network: plumb.TCP4, Listen: netip.MustParseAddrPort("127.0.0.1:0")}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(held)
	sa, err := syscall.Getsockname(int(held[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	taken := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*syscall.SockaddrInet4).Port))
	for _, tt := range []struct {
		s    plumb.Socket
		want string
	}{
		{plumb.Socket{Network: plumb.TCP4, Listen: taken}, taken.String()},
		{plumb.Socket{Network: "sctp4"}, `unknown network "sctp4"`},
		{plumb.Socket{Network: plumb.TCP6, Listen: taken}, "not one of tcp6"},
		{plumb.Socket{Network: plumb.UDP6, Listen: netip.MustParseAddrPort("[::ffff:127.0.0.1]:9")}, "not one of udp6"},
		{plumb.Socket{Network: plumb.UDP6, Listen: netip.MustParseAddrPort("[fe80::1%lo]:9")}, "not one of udp6"},
	} {
		files, err := OpenSockets([]plumb.Socket{{Network: plumb.UDP4}, tt.s})
		if err == nil || files != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("OpenSockets(%v): %v, %v, want %q", tt.s, files, err, tt.want)
		}
		if tt.s.Listen == taken && tt.s.Network == plumb.TCP4 && !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("OpenSockets(%v): %v, want EADDRINUSE", tt.s, err)
		}
	}
	if _, err := OpenSockets(make([]plumb.Socket, MaxSockets+1)); err == nil {
		t.Error("more than a message carries: no error")
	}
}

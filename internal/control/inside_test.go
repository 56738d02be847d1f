package control

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// wantByte waits until a datapath has been given the other end of r.
func wantByte(t *testing.T, r *os.File) {
	t.Helper()
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatalf("a socket did not reach the datapath: %v", err)
	}
}

// TestPrivateSockets: sockets of the sandbox are asked for once, when the first TCP port is published; they reach the
// datapath, and the next one too.
func TestPrivateSockets(t *testing.T) {
	r := newPrivate(t, PrivateConfig{Splice: true, Network: spec.Network{Subnet4: netip.MustParsePrefix("10.0.2.0/24")}})
	if _, err := r.attach(); err != nil {
		t.Fatal(err)
	}
	udp := portfwd.Spec{Proto: portfwd.UDP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 53}
	r.Private.c.do(func(*supervisor) error {
		r.askSockets([]portfwd.Spec{udp, {Proto: portfwd.TCP, Reverse: true}})
		return nil
	})
	if n := len(r.WantSockets()); n != 0 {
		t.Fatal("sockets are wanted without a TCP port")
	}
	r.publish()
	r.publish()
	if got := <-r.WantSockets(); len(got) != 2 || got[0] != (plumb.Socket{Network: plumb.TCP4}) {
		t.Errorf("wanted %v, want two of tcp4", got)
	}
	if n := len(r.WantSockets()); n != 0 {
		t.Error("sockets are wanted twice")
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := r.UseSockets([]*os.File{out}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Stat(); err == nil {
		t.Error("UseSockets left the file open")
	}
	wantByte(t, in)
	syscall.Kill(r.Private.Status().PID, syscall.SIGKILL)
	wantByte(t, in)
	if err := r.Private.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(in); err != nil || len(b) != 0 {
		t.Errorf("after Close: %q, %v, want no descriptor left", b, err)
	}
	// Sockets that come too late are closed, and that is no error: nobody misses them.
	late, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.UseSockets([]*os.File{late}); err != nil {
		t.Errorf("UseSockets after Close: %v", err)
	}
	if _, err := late.Stat(); err == nil {
		t.Error("UseSockets after Close left the file open")
	}
}

// TestPrivateNoSockets: without Splice nothing is ever asked for, and what the datapath refuses stays nowhere.
func TestPrivateNoSockets(t *testing.T) {
	r := newPrivate(t, PrivateConfig{Publish: []portfwd.Spec{loopbackPort}})
	if r.WantSockets() != nil {
		t.Error("sockets are wanted")
	}
	if _, err := r.attach(); err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// The end for reading, which the fake cannot write to.
	if err := r.UseSockets([]*os.File{in}); err == nil || !strings.Contains(err.Error(), "use sockets of the sandbox") {
		t.Errorf("UseSockets: %v", err)
	}
	if _, err := out.WriteString("x"); err == nil {
		t.Error("a refused file is held open")
	}
	out.Close()
}

package shim

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// insidePorts are the TCP ports that somebody listens at on 127.0.0.1.
const insidePorts = `awk '$2 ~ /^0100007F:/ && $4 == "0A" {print $2}' /proc/net/tcp`

var insideSockets = []plumb.Socket{
	{Network: plumb.TCP4, Listen: netip.MustParseAddrPort("127.0.0.1:7")},
	{Network: plumb.TCP4},
}

// TestSockets: sockets made in somebody else's namespace are there, and can be used here.
func TestSockets(t *testing.T) {
	c := containerRunning(t, "ip link set lo up 2>/dev/null || ifconfig lo up; echo ready; exec sleep 1000", "--user", "--map-root-user")
	in := Namespace{PID: c.Process.Pid, Exe: self(t)}
	files, err := Sockets(t.Context(), in, insideSockets)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	wantInside(t, c.Process.Pid, insidePorts, "0100007F:0007\n")
	// The second reaches the first, so both are in one namespace, and port 7 of ours is another.
	ln, err := net.FileListener(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := unix.Connect(int(files[1].Fd()), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 7}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	if again, err := Sockets(t.Context(), in, insideSockets); err == nil || again != nil ||
		!strings.Contains(err.Error(), "127.0.0.1:7: address already in use") {
		t.Errorf("the same port again: %v, %v", again, err)
	}
	if _, err := Sockets(t.Context(), Namespace{PID: os.Getpid()}, insideSockets); err == nil ||
		!strings.Contains(err.Error(), "the one this process is in") {
		t.Errorf("our own namespace: %v", err)
	}
	_ = c.Process.Kill()
	waitGone(t, []int{c.Process.Pid})
	if _, err := Sockets(t.Context(), in, insideSockets); err == nil {
		t.Error("an ended process: no error")
	}
}

// TestSocketsWhileRunning: a sandbox's init makes them, as the Network asks; so does the helper of an attached
// namespace.
func TestSocketsWhileRunning(t *testing.T) {
	s := start(t, testConfig{Network: NetworkPrivate, Command: sh("echo ready; exec sleep 1000")})
	s.line("ready")
	c := container(t, "--user", "--map-root-user")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid})
	a.waitReady()
	for pid, a := range map[int]*asker{initOf(t, s): &s.asker, c.Process.Pid: &a.asker} {
		a.changed(Change{Sockets: insideSockets})
		wantInside(t, pid, insidePorts, "0100007F:0007\n")
		if got := a.change(Change{Sockets: insideSockets}); !strings.Contains(got, "address already in use") {
			t.Errorf("the same port again: %s", got)
		}
	}
}

// TestSocketsMissing: fewer than were asked for are none, and stay closed.
func TestSocketsMissing(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	m := message{Kind: kindChanged, sockets: []*os.File{f}}
	if err := m.checkSockets(2); err == nil || !strings.Contains(err.Error(), "1 came instead of 2") {
		t.Errorf("checkSockets: %v", err)
	}
	if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("it is open: %v", err)
	}
}

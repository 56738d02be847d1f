package sys

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestPeer: both ends of a connection learn who the other is; a socket that has none, or is closed, is an error.
func TestPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []*net.UnixConn{c, accepted} {
		if uid, pid, err := Peer(end); uid != os.Geteuid() || pid != os.Getpid() || err != nil {
			t.Errorf("user %d, process %d, %v", uid, pid, err)
		}
	}
	accepted.Close()
	if uid, pid, err := Peer(accepted); err == nil {
		t.Errorf("of a closed one: user %d, process %d", uid, pid)
	}
}

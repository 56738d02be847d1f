package sys

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestListenUnix: the socket is its owner's alone from its first moment, whatever the umask.
func TestListenUnix(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, network := range []string{"unix", "unixpacket"} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := ListenUnix(network, path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: mode %v", network, st.Mode())
		}
		c, err := net.Dial(network, path)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if l, err := ListenUnix(network, path); err == nil {
			l.Close()
			t.Errorf("%s: a path that is taken was taken", network)
		}
	}
}

package rootlessport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// reloader serves <TmpDir>/rp/<container>: a SOCK_SEQPACKET socket, on which podman says the container's new address as
// a JSON string, and reads "OK" or an error until the end.
type reloader struct {
	l    *net.UnixListener
	path string
	lead func(child netip.Addr) error
	wg   sync.WaitGroup
}

const (
	// reloadPatience is for a client that connects and says nothing; it holds up the next.
	reloadPatience = 5 * time.Second
	maxReload      = 4096
)

// serveReload makes the socket and serves it until close.
func serveReload(tmpDir, container string, lead func(child netip.Addr) error) (*reloader, error) {
	dir := filepath.Join(tmpDir, "rp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the reload socket: %w", err)
	}
	r := &reloader{path: filepath.Join(dir, container), lead: lead}
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old reload socket: %w", err)
	}
	// By way of a descriptor, since the address of a socket has room for 107 bytes and a TmpDir may be longer.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of the reload socket: %w", err)
	}
	defer unix.Close(fd)
	r.l, err = sys.ListenUnix("unixpacket", fmt.Sprintf("/proc/self/fd/%d/%s", fd, container))
	if err != nil {
		return nil, fmt.Errorf("listen on the reload socket %s: %w", r.path, err)
	}
	r.l.SetUnlinkOnClose(false) // the address is of a descriptor that is closed
	r.wg.Go(r.serve)
	return r, nil
}

func (r *reloader) serve() {
	for {
		c, err := r.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors or memory, which passes
			continue
		}
		_ = c.SetDeadline(time.Now().Add(reloadPatience))
		answer := "OK"
		if err := r.handle(c); err != nil {
			answer = err.Error()
		}
		_ = c.SetDeadline(time.Now().Add(reloadPatience))
		_, _ = io.WriteString(c, answer) // who does not wait for it does not need it
		_ = c.Close()
	}
}

func (r *reloader) handle(c io.Reader) error {
	child, err := readReload(c)
	if err != nil {
		return err
	}
	if err := r.lead(child); err != nil {
		return fmt.Errorf("rootless port failed to add port: %w", err)
	}
	return nil
}

// readReload reads one request, which is one message of the socket. The texts are the original's.
func readReload(c io.Reader) (netip.Addr, error) {
	var s string
	b := make([]byte, maxReload)
	n, err := c.Read(b)
	if err == nil {
		err = json.Unmarshal(b[:n], &s)
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("rootless port failed to decode ports: %w", err)
	}
	return childIP(s)
}

func (r *reloader) close() {
	_ = r.l.Close()
	r.wg.Wait()
	_ = os.Remove(r.path)
}

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/activation"
)

// sockets are what the daemon listens on.
type sockets struct {
	api  []net.Listener
	join *net.UnixListener
}

// maxSocketPath is the length of sockaddr_un.sun_path less its final zero.
const maxSocketPath = 107

// activated are the sockets that systemd gave, by the names in its unit file.
func activated() map[string]*os.File {
	m := make(map[string]*os.File)
	for _, f := range activation.Files(true) {
		m[f.Name()] = f
	}
	return m
}

// listen takes the sockets that systemd gave and makes those that it did not. The lock is held, so
// what a dead daemon has left may go.
func listen(p Paths, hosts []string, given map[string]*os.File, log *slog.Logger) (s *sockets, err error) {
	s = &sockets{}
	defer func() {
		for _, f := range given {
			f.Close() // a listener has its own duplicate
		}
		if err != nil {
			s.close()
		}
	}()
	for name := range given {
		if name != SocketName && name != JoinSocketName {
			return s, fmt.Errorf("take sockets of systemd: there is one named %s; FileDescriptorName= must be %s or %s", name, SocketName, JoinSocketName)
		}
	}
	l, err := listenUnix("unix", p.Socket(), given[SocketName])
	if err != nil {
		return s, err
	}
	s.api = append(s.api, l)
	if s.join, err = listenUnix("unixpacket", p.Join(), given[JoinSocketName]); err != nil {
		return s, err
	}
	for _, h := range hosts {
		path, err := socketOf(h)
		if err != nil {
			return s, err
		}
		if path == "" || path == p.Socket() {
			continue
		}
		l, err := listenUnix("unix", path, nil)
		if err != nil {
			return s, err
		}
		s.api = append(s.api, l)
		log.Info("API is served", "socket", path)
	}
	return s, nil
}

// listenUnix makes a socket, mode 0600, or takes the one given.
func listenUnix(network, path string, given *os.File) (*net.UnixListener, error) {
	if given != nil {
		l, err := net.FileListener(given)
		if err != nil {
			return nil, fmt.Errorf("take socket %s of systemd: %w", given.Name(), err)
		}
		u, ok := l.(*net.UnixListener)
		if !ok || u.Addr().Network() != network {
			l.Close()
			return nil, fmt.Errorf("take socket %s of systemd: it is of network %s, not %s", given.Name(), l.Addr().Network(), network)
		}
		u.SetUnlinkOnClose(false) // systemd goes on listening
		return u, nil
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path is longer than %d bytes; set XDG_RUNTIME_DIR to a shorter one", path, maxSocketPath)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: it is there and not a socket; remove it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: remove the stale socket: %w", path, err)
	}
	// The umask makes it 0600 from its first moment; where somebody changed that, the mode is set again.
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Base(path), err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

func (s *sockets) close() {
	for _, l := range s.api {
		l.Close()
	}
	if s.join != nil {
		s.join.Close()
	}
}

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/usernet/usernet/internal/sys"
)

// sockets are what the daemon listens on.
type sockets struct {
	api  []net.Listener
	join *net.UnixListener
}

// listen takes the sockets that systemd gave and makes those that it did not. The lock is held, so
// what a dead daemon has left may go.
func listen(p Paths, hosts []string, given []*os.File, log *slog.Logger) (s *sockets, err error) {
	s = &sockets{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.take(given); err != nil {
		return s, fmt.Errorf("take sockets of systemd: %w", err)
	}
	// The API is last: whoever it answers finds the other too.
	if s.join == nil {
		if s.join, err = listenUnix("unixpacket", p.Join()); err != nil {
			return s, err
		}
	}
	if len(s.api) == 0 {
		l, err := listenUnix("unix", p.Socket())
		if err != nil {
			return s, err
		}
		s.api = append(s.api, l)
	}
	for _, h := range hosts {
		path, err := socketOf(h)
		if err != nil {
			return s, err
		}
		if path == "" || path == p.Socket() {
			continue
		}
		l, err := listenUnix("unix", path)
		if err != nil {
			return s, err
		}
		s.api = append(s.api, l)
		log.Info("API is served", "socket", path)
	}
	return s, nil
}

// take takes the sockets that systemd gave. A stream is the API's, sequential packets are the sandboxes'; a unit file
// cannot give the two of one unit names of their own.
func (s *sockets) take(given []*os.File) (err error) {
	for _, f := range given {
		l, lerr := net.FileListener(f)
		err = errors.Join(err, lerr, f.Close()) // a listener has its own duplicate
		if lerr != nil {
			continue
		}
		u, _ := l.(*net.UnixListener)
		switch {
		case u != nil && u.Addr().Network() == "unix":
			s.api = append(s.api, u)
		case u != nil && u.Addr().Network() == "unixpacket" && s.join == nil:
			s.join = u
		default:
			err = errors.Join(err, fmt.Errorf("%s is neither a unix stream socket nor the only one with sequential packets", l.Addr()), l.Close())
			continue
		}
		u.SetUnlinkOnClose(false) // systemd goes on listening
	}
	return err
}

// listenUnix makes a socket with mode 0600.
func listenUnix(network, path string) (*net.UnixListener, error) {
	if err := sys.FreeSocketPath(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := sys.ListenUnix(network, path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Base(path), err)
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

package sys

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenUnix listens at path, which must be free (FreeSocketPath), with mode 0600. network is "unix" or "unixpacket".
//
// The mode is the socket's before it has a name: chmod of the path after it would leave others a moment to connect
// in, and follow whatever somebody put there meanwhile.
func ListenUnix(network, path string) (*net.UnixListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		cerr := rc.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(cerr, err)
	}}
	l, err := lc.Listen(context.Background(), network, path)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(net.UnknownNetworkError(network), l.Close())
	}
	return u, nil
}

package localhttp

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// withPeer notes who connected. The kernel remembers it from the moment of connect(2).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(interface {
		SyscallConn() (syscall.RawConn, error)
	})
	if !ok {
		return ctx
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, int(cred.Uid))
}

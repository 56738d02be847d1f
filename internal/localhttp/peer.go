package localhttp

import (
	"context"
	"net"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
)

// withPeer notes who connected. Who cannot be told is nobody.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if u, ok := c.(syscall.Conn); ok {
		if uid, _, err := sys.Peer(u); err == nil {
			return context.WithValue(ctx, peerKey{}, uid)
		}
	}
	return ctx
}

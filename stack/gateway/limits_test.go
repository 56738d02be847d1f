package gateway

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestCloseDuringDial: a connection that came through just when Close ended its dial does not make Close wait
// for a container that will not answer.
func TestCloseDuringDial(t *testing.T) {
	o := newOutside(t)
	dialling := make(chan struct{})
	b := newBench(t, withDial(func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		close(dialling)
		<-ctx.Done()
		return o.dial(context.WithoutCancel(ctx), network, from, to)
	}))
	b.send(synPacket(container4, ap(outside4), 1000))
	<-dialling
	closed := make(chan struct{})
	go func() {
		b.gw.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(handshakeTimeout / 2):
		t.Error("Close waits for the handshake")
		<-closed
	}
}

package nat

import (
	"os"
	"syscall"
	"testing"

	"github.com/usernet/usernet/internal/sys"
)

// flowProbe receives with what the kernel knows of each datagram.
type flowProbe struct {
	t     testing.TB
	rc    syscall.RawConn
	batch *sys.RecvBatch
}

func newFlowProbe(t testing.TB, rc syscall.RawConn, v6 bool) *flowProbe {
	t.Helper()
	if err := sys.SetOptions(rc, v6, sys.OptTTL); err != nil {
		t.Fatal(err)
	}
	return &flowProbe{t: t, rc: rc, batch: sys.NewRecvBatch(1, 65535)}
}

func (p *flowProbe) next() sys.Received {
	p.t.Helper()
	if _, err := p.batch.Recv(p.rc); err != nil {
		p.t.Fatal(err)
	}
	return p.batch.Message(0)
}

func openFiles(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

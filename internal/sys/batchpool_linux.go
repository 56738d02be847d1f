package sys

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// BatchPool shares RecvBatches among many sockets: a socket that waits holds none, so ten thousand
// idle flows cost their sockets and nothing more. It is safe for concurrent use.
type BatchPool struct{ p sync.Pool }

// NewBatchPool makes a pool of batches as NewRecvBatch(n, size) makes them.
func NewBatchPool(n, size int) *BatchPool {
	return &BatchPool{sync.Pool{New: func() any { return NewRecvBatch(n, size) }}}
}

// Get takes a batch out of the pool.
func (p *BatchPool) Get() *RecvBatch { return p.p.Get().(*RecvBatch) }

// Put gives a batch back.
func (p *BatchPool) Put(b *RecvBatch) { p.p.Put(b) }

// Receiver receives from one socket into batches of a pool. It belongs to one goroutine.
type Receiver struct {
	rc   syscall.RawConn
	pool *BatchPool
	got  *RecvBatch
	fn   func(fd uintptr) bool
}

// NewReceiver makes a receiver for the socket behind rc, which it does not own.
func NewReceiver(rc syscall.RawConn, pool *BatchPool) *Receiver {
	r := &Receiver{rc: rc, pool: pool}
	r.fn = func(fd uintptr) bool {
		b := pool.Get()
		b.n, b.err = b.recv(fd)
		if b.err == unix.EAGAIN {
			pool.Put(b)
			return false
		}
		r.got = b
		return true
	}
	return r
}

// Recv waits for datagrams and returns a batch of them, at least one, which the caller puts back
// into the pool. On an error there is no batch.
func (r *Receiver) Recv() (*RecvBatch, error) {
	if err := r.rc.Read(r.fn); err != nil {
		return nil, closedError(r.rc, err)
	}
	b := r.got
	r.got = nil
	if b.err != 0 {
		err := b.err
		r.pool.Put(b)
		return nil, err
	}
	return b, nil
}

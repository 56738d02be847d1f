package shim

import (
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/usernet/usernet/cnm/plumb"
)

// ErrEnded is what becomes of a change that is asked for when the sandbox is over, or was while it was made. Who has a
// Network in hand and does not pass a change on for that reason answers it too.
var ErrEnded = errors.New("the sandbox has ended")

// WithSockets returns n with one change of its own: what comes from wanted, once, is made in the sandbox and given to
// use, which owns it. A sandbox that cannot make it does without. A nil wanted never asks.
func WithSockets(n Network, wanted <-chan []plumb.Socket, use func([]*os.File) error, log *slog.Logger) Network {
	if wanted == nil {
		return n
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &socketed{Network: n, use: use, log: log, changes: make(chan Change), closed: make(chan struct{})}
	s.wg.Go(func() { s.ask(wanted) })
	return s
}

// socketed is a Network that asks for sockets.
type socketed struct {
	Network
	use func([]*os.File) error
	log *slog.Logger

	changes chan Change
	closed  chan struct{}
	once    sync.Once
	wg      sync.WaitGroup // ask
}

// ask waits until sockets are wanted, and until the shim, which makes changes while CMD runs, has seen to it.
func (s *socketed) ask(wanted <-chan []plumb.Socket) {
	c := Change{Made: s.made}
	select {
	case c.Sockets = <-wanted:
	case <-s.closed:
		return
	}
	reply := make(chan error, 1)
	c.Reply = reply
	select {
	case s.changes <- c:
	case <-s.closed:
		return
	}
	select {
	case err := <-reply:
		s.failed(err)
	case <-s.closed:
	}
}

func (s *socketed) made(files []*os.File) { s.failed(s.use(files)) }

// failed logs what a sandbox has to do without. A command that is over at once is over before its sockets are made: that is
// nobody's fault, and nobody misses them.
func (s *socketed) failed(err error) {
	if err != nil && !errors.Is(err, ErrEnded) {
		s.log.Warn("published ports are served through the gateway alone", "err", err)
	}
}

// Changes implements Network.
func (s *socketed) Changes() <-chan Change { return s.changes }

// Close implements Network.
func (s *socketed) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.wg.Wait()
	return s.Network.Close()
}

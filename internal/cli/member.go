package cli

import (
	"sync"
	"syscall"

	"github.com/usernet/usernet/internal/shim"
)

// member is a sandbox's network as its shim sees it, with two things more: whoever made the sandbox hears when its
// command runs, and a request to end it, which comes over the sandbox's own socket, is one more change that the shim
// is to make.
type member struct {
	shim.Network
	started func()

	changes chan shim.Change
	closed  chan struct{}
	once    sync.Once
	wg      sync.WaitGroup // merge
}

// newMember takes n over. started is called once, and may be nil.
func newMember(n shim.Network, started func()) *member {
	m := &member{Network: n, started: started, changes: make(chan shim.Change), closed: make(chan struct{})}
	if from := n.Changes(); from != nil {
		m.wg.Go(func() { m.merge(from) })
	}
	return m
}

// merge passes on the changes that the network itself asks for.
func (m *member) merge(from <-chan shim.Change) {
	for {
		select {
		case c, ok := <-from:
			if !ok {
				return
			}
			select {
			case m.changes <- c:
			case <-m.closed:
				c.Reply <- shim.ErrEnded
				return
			}
		case <-m.closed:
			return
		}
	}
}

// Changes implements shim.Network.
func (m *member) Changes() <-chan shim.Change { return m.changes }

// Started implements shim.Network.
func (m *member) Started(pid int) {
	m.Network.Started(pid)
	if m.started != nil {
		m.started()
	}
}

// signal has the shim send the command a signal.
func (m *member) signal(sig syscall.Signal) error {
	reply := make(chan error, 1)
	select {
	case m.changes <- shim.Change{Signal: sig, Reply: reply}:
	case <-m.closed:
		return shim.ErrEnded
	}
	select {
	case err := <-reply:
		return err
	case <-m.closed:
		// The signal may be why. Who asked will see the sandbox go.
		return nil
	}
}

// Close implements shim.Network.
func (m *member) Close() error {
	m.once.Do(func() { close(m.closed) })
	m.wg.Wait()
	return m.Network.Close()
}

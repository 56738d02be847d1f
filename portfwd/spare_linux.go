package portfwd

import (
	"errors"
	"slices"
	"sync"

	"github.com/usernet/usernet/internal/sys"
)

const (
	// maxSpares of a family are kept for a container. Connections at the same time give as many back as they take, so that even of
	// many only the first find none.
	maxSpares = 4
	// maxAllSpares is for all containers of the process: no limit of connections counts them, so they are of the descriptors that are
	// for TAPs, listeners and control.
	maxAllSpares = 64
)

// spareSockets are sockets of containers that have served and are fresh again. Of a container's the one kept last is used first. When
// there are too many in all, the one that nobody has needed for longest is closed.
type spareSockets struct {
	mu   sync.Mutex // a leaf; guards what follows, and closed of every maker
	list []*conn    // the one kept last at the end
}

// spares are those of the process.
var spares spareSockets

// take returns a socket of m, or nil.
func (s *spareSockets) take(m *maker) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range slices.Backward(s.list) {
		if c.home == m {
			s.list = slices.Delete(s.list, i, i+1)
			return c
		}
	}
	return nil
}

// keep takes a connection that is over, and that nobody uses any more.
func (s *spareSockets) keep(c *conn) {
	if c.took || c.gave || control(c.raw, refresh) != nil {
		_ = c.Close()
		return
	}
	if c = s.put(c); c != nil {
		_ = c.Close()
	}
}

// put keeps c and returns what is to be closed for it, which may be c itself.
func (s *spareSockets) put(c *conn) (out *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := 0
	for _, other := range s.list {
		if other.home == c.home {
			same++
		}
	}
	if c.home.closed || same >= maxSpares {
		return c
	}
	if len(s.list) >= maxAllSpares {
		out = s.list[0]
		s.list = slices.Delete(s.list, 0, 1)
	}
	s.list = append(s.list, c)
	return out
}

// end closes those of m. None of it is kept after that.
func (s *spareSockets) end(m *maker) error {
	s.mu.Lock()
	m.closed = true
	var all []*conn
	s.list = slices.DeleteFunc(s.list, func(c *conn) bool {
		if c.home != m {
			return false
		}
		all = append(all, c)
		return true
	})
	s.mu.Unlock()
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// refresh makes fd a fresh socket, with no error of the connection before.
func refresh(fd int) error {
	err := sys.Disconnect(fd)
	_ = pendingError(fd)
	return err
}

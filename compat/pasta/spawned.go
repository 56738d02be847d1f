package pasta

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet/compat/session"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/tap"
)

// spawned is the network of a command.
//
// Ports of the namespace are open before the command runs, so that it can use them at once. Without any its start does
// not wait for a helper.
type spawned struct {
	*session.Opened
	r      *runner
	ctx    context.Context // ends with the sandbox
	init   int             // a process in the namespaces
	served bool
}

// Attach gives the network its TAP, and opens ports.
func (s *spawned) Attach(id string, dev *os.File, info tap.Info) error {
	if err := s.Opened.Attach(id, dev, info); err != nil {
		return err
	}
	if len(s.r.out.Rules) == 0 {
		return nil
	}
	if err := s.waitLoopback(); err != nil {
		return err
	}
	s.served = true
	return bindText(s.serve(s.ctx))
}

// Started begins to look who listens, and serves the configuration socket, if that has not begun.
func (s *spawned) Started(pid int) {
	s.Opened.Started(pid)
	if s.served {
		return
	}
	s.r.conf.wg.Go(func() {
		if err := s.serve(s.ctx); err != nil && s.ctx.Err() == nil {
			s.r.say(bindText(err).Error())
		}
	})
}

// Close ends what Attach or Started began, then the network.
func (s *spawned) Close() error {
	s.r.conf.close()
	return s.Opened.Close()
}

func (s *spawned) serve(ctx context.Context) error {
	return s.r.serve(ctx, s.Opened, shim.Namespace{PID: s.init}, true)
}

// The namespace is being set up while its TAP comes here; how often to look, and for how long, whether its loopback is up.
const (
	loopbackEvery    = 2 * time.Millisecond
	loopbackPatience = 10 * time.Second
)

// waitLoopback waits until sockets can be bound to the namespace's loopback. The kernel adds ::1 after 127.0.0.1.
func (s *spawned) waitLoopback() error {
	ctx, cancel := context.WithTimeout(s.ctx, loopbackPatience)
	defer cancel()
	t := time.NewTicker(loopbackEvery)
	defer t.Stop()
	dir := "/proc/" + strconv.Itoa(s.init) + "/net/"
	for {
		b, err := os.ReadFile(dir + "if_inet6")
		mark := " lo\n"
		if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			b, err = os.ReadFile(dir + "fib_trie")
			mark = "127.0.0.1\n"
		}
		if err != nil {
			return err
		}
		if strings.Contains(string(b), mark) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the loopback interface of the namespace does not come up")
		case <-t.C:
		}
	}
}

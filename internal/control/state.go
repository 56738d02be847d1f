package control

import (
	"fmt"

	"github.com/usernet/usernet/internal/datapath"
)

// State says how a Control and its datapath stand; see the package comment for the transitions.
type State uint8

// The states.
const (
	Starting   State = iota // the first datapath is on its way
	Running                 // the datapath has everything that is wanted
	Restarting              // the datapath ended; another is on its way
	Failed                  // the first datapath could not be started; final
	Closed                  // Close was called or the context ended; final
)

var stateNames = [...]string{"starting", "running", "restarting", "failed", "closed"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// setState is the supervisor's; it tells whoever asked to be told.
func (c *Control) setState(to State) {
	c.mu.Lock()
	from := c.state
	c.state = to
	c.mu.Unlock()
	if from == to {
		return
	}
	c.log.Info("control state", "from", from, "to", to)
	if c.cfg.StateChanged != nil {
		c.cfg.StateChanged(to)
	}
}

// fail makes the state Failed; finish keeps it.
func (c *Control) fail(err error) {
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	c.setState(Failed)
}

// finish is the supervisor's last act.
func (c *Control) finish() {
	if c.Status().State != Failed {
		c.setState(Closed)
	}
	close(c.done)
}

// setProcess shows which process there is; 0 means none.
func (c *Control) setProcess(pid int, h datapath.Hello) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid, c.hello = pid, h
}

func (c *Control) countRestart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarts++
}

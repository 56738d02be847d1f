package shim

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/tap"
)

// quietNetwork is a Network that does nothing, and tells when it is closed.
type quietNetwork struct{ closed chan struct{} }

func newQuietNetwork() *quietNetwork { return &quietNetwork{make(chan struct{})} }

func (n *quietNetwork) Attach(string, *os.File, tap.Info) error { return nil }
func (n *quietNetwork) Started(int)                             {}
func (n *quietNetwork) Changes() <-chan Change                  { return nil }
func (n *quietNetwork) Done() <-chan struct{}                   { return nil }
func (n *quietNetwork) Close() error                            { close(n.closed); return nil }

// TestWithSockets: what is wanted becomes one change, and what was made goes to who wanted it.
func TestWithSockets(t *testing.T) {
	wanted := make(chan []plumb.Socket, 1)
	got := make(chan []*os.File, 1)
	inner := newQuietNetwork()
	n := WithSockets(inner, wanted, func(f []*os.File) error { got <- f; return errors.New("of no use") }, nil)
	sockets := []plumb.Socket{{Network: plumb.TCP4, Listen: netip.MustParseAddrPort("127.0.0.1:7")}}
	wanted <- sockets
	c := <-n.Changes()
	if len(c.Sockets) != 1 || c.Sockets[0] != sockets[0] {
		t.Errorf("asked for %v, want %v", c.Sockets, sockets)
	}
	made := []*os.File{os.Stdin}
	c.Made(made)
	if f := <-got; len(f) != 1 || f[0] != made[0] {
		t.Errorf("used %v, want %v", f, made)
	}
	c.Reply <- nil
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	<-inner.closed
}

// TestWithSocketsEnds: Close does not wait for what never comes: a wish, somebody who takes the change, a reply.
func TestWithSocketsEnds(t *testing.T) {
	for name, before := range map[string]func(n Network, wanted chan []plumb.Socket){
		"nothing wanted": func(Network, chan []plumb.Socket) {},
		"not taken":      func(_ Network, wanted chan []plumb.Socket) { wanted <- insideSockets },
		"no reply":       func(n Network, wanted chan []plumb.Socket) { wanted <- insideSockets; <-n.Changes() },
	} {
		t.Run(name, func(t *testing.T) {
			wanted := make(chan []plumb.Socket)
			inner := newQuietNetwork()
			n := WithSockets(inner, wanted, func([]*os.File) error { return nil }, nil)
			before(n, wanted)
			if err := n.Close(); err != nil {
				t.Error(err)
			}
			<-inner.closed
		})
	}
	inner := newQuietNetwork()
	if n := WithSockets(inner, nil, nil, nil); n != Network(inner) {
		t.Error("a network that wants no sockets is another one")
	}
}

// TestWithSocketsLog: sockets that a sandbox does without are told of, unless it is over: a command that ends at once
// writes nothing but what it writes itself.
func TestWithSocketsLog(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		reply, use error
		want       bool
	}{
		"made":         {},
		"not made":     {reply: broken, want: true},
		"ended before": {reply: ErrEnded},
		"of no use":    {use: broken, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			wanted := make(chan []plumb.Socket, 1)
			wanted <- insideSockets
			n := WithSockets(newQuietNetwork(), wanted, func([]*os.File) error { return tt.use },
				slog.New(slog.NewTextHandler(&log, nil)))
			c := <-n.Changes()
			if tt.reply == nil {
				c.Made(nil)
			}
			c.Reply <- tt.reply
			n.(*socketed).wg.Wait()
			if err := n.Close(); err != nil {
				t.Error(err)
			}
			if got := strings.Contains(log.String(), "gateway alone"); got != tt.want {
				t.Errorf("told: %v, want %v: %s", got, tt.want, log.String())
			}
		})
	}
}

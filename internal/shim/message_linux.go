package shim

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/tap"
)

// kind names a message between the shim and a process it started in the sandbox.
type kind string

const (
	kindEntered kind = "entered" // init → shim: it is in the namespaces it was to join
	kindSetup   kind = "setup"   // shim → init: what to make
	kindTAP     kind = "tap"     // init → shim: the TAP of a Link, with its descriptor
	kindGo      kind = "go"      // shim → init: the network is ready, start CMD
	kindStarted kind = "started" // init → shim: CMD runs
	kindStopped kind = "stopped" // init → shim: CMD was stopped by a signal
	kindSignal  kind = "signal"  // shim → init: deliver a signal to CMD
	kindChange  kind = "change"  // shim → init: make a change
	kindChanged kind = "changed" // init → shim: it is made, or Error says why not
	kindFailed  kind = "failed"  // init → shim: it gives up, and why
)

// message is everything that passes between the two; Kind says which fields have a meaning.
type message struct {
	Kind     kind           `json:"kind"`
	Setup    *setup         `json:"setup,omitempty"`
	Change   *change        `json:"change,omitempty"`
	ID       uint64         `json:"id,omitempty"`       // of a change and what answers it
	Endpoint string         `json:"endpoint,omitempty"` // whose TAP it is
	Info     *tap.Info      `json:"info,omitempty"`
	PID      int            `json:"pid,omitempty"`
	Signal   syscall.Signal `json:"signal,omitempty"`
	Code     int            `json:"code,omitempty"`
	Error    string         `json:"error,omitempty"`

	file    *os.File   // beside the message
	sockets []*os.File // the same, of an answer to change.Sockets; then there is no file
}

// isSockets reports whether what comes beside the message are sockets.
func (m *message) isSockets() bool { return m.Kind == kindChanged && m.Info == nil }

// change is a Change as the process in the sandbox is told of it. Exactly one field is set.
type change struct {
	Plug   *plumb.Link  `json:"plug,omitempty"`   // the answer has the TAP
	Unplug string       `json:"unplug,omitempty"` // the name of an interface
	Routes *routeChange `json:"routes,omitempty"`
	Files  []plumb.File `json:"files,omitempty"` // for a helper there is the directory that is their root
	// Sockets are answered by as many descriptors.
	Sockets []plumb.Socket `json:"sockets,omitempty"`
}

// routeChange says what was set before, too: only that may be replaced.
type routeChange struct {
	Was  plumb.Routes `json:"was"`
	Want plumb.Routes `json:"want"`
}

// maxMessage bounds a message. It is what the kernel takes at its default send buffer; only setup
// with thousands of --add-host comes near.
const maxMessage = 200 << 10

// conn carries messages. Sends may come from several goroutines; receives belong to one.
type conn struct{ w *wire.Conn }

// newConn takes the socket over.
func newConn(f *os.File) (*conn, error) {
	w, err := wire.New(f, maxMessage)
	if err != nil {
		return nil, err
	}
	return &conn{w}, nil
}

// inheritedConn is the conn at descriptor fd, which the parent left open across exec.
func inheritedConn(fd int) (*conn, error) {
	w, err := wire.Inherited(fd, maxMessage)
	if err != nil {
		return nil, err
	}
	return &conn{w}, nil
}

func (c *conn) send(m message) error {
	files := m.sockets
	if m.file != nil {
		files = []*os.File{m.file}
	}
	if err := c.w.Send(m, files...); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive waits for a message. io.EOF says that the other side is gone.
func (c *conn) receive() (message, error) {
	var m message
	files, err := c.w.Receive(&m)
	if err != nil {
		closeAll(files)
		return message{}, err
	}
	switch {
	case m.isSockets():
		m.sockets = files
	case len(files) != 0:
		m.file = files[0]
		closeAll(files[1:])
	}
	return m, nil
}

// expect waits for a message of one kind; a kindFailed in its place becomes a *Error.
func (c *conn) expect(k kind) (message, error) {
	m, err := c.receive()
	switch {
	case err != nil:
		return message{}, err
	case m.Kind == k:
		return m, nil
	}
	m.close()
	if m.Kind == kindFailed {
		return message{}, &Error{Code: m.Code, Err: errors.New(m.Error)}
	}
	return message{}, fmt.Errorf("unexpected message %q, want %q", m.Kind, k)
}

// close closes the descriptors of a message that nobody wants.
func (m *message) close() {
	if m.file != nil {
		m.file.Close()
	}
	closeAll(m.sockets)
}

func (c *conn) close() error { return c.w.Close() }

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Error is a failure with the exit code it stands for.
type Error struct {
	Code int // 125, 126 or 127
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is the exit code that err stands for: its own if it has one, else ExitFailure.
func ExitCode(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ExitFailure
}

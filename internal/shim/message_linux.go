package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap"
)

// kind names a message between the shim and a process it started in the sandbox.
type kind string

const (
	kindSetup   kind = "setup"   // shim → init: what to make
	kindTAP     kind = "tap"     // init → shim: the TAP, with its descriptor
	kindGo      kind = "go"      // shim → init: the network is ready, start CMD
	kindStarted kind = "started" // init → shim: CMD runs
	kindStopped kind = "stopped" // init → shim: CMD was stopped by a signal
	kindSignal  kind = "signal"  // shim → init: deliver a signal to CMD
	kindFailed  kind = "failed"  // init → shim: it gives up, and why
)

// message is everything that passes between the two; Kind says which fields have a meaning.
type message struct {
	Kind   kind           `json:"kind"`
	Setup  *setup         `json:"setup,omitempty"`
	Info   *tap.Info      `json:"info,omitempty"`
	PID    int            `json:"pid,omitempty"`
	Signal syscall.Signal `json:"signal,omitempty"`
	Code   int            `json:"code,omitempty"`
	Error  string         `json:"error,omitempty"`

	file *os.File // beside the message; kindTAP has one
}

// maxMessage bounds a message. It is what the kernel takes at its default send buffer; only setup
// with thousands of --add-host comes near.
const maxMessage = 200 << 10

// conn carries messages over a SEQPACKET socket. One goroutine may send while another receives.
type conn struct {
	f   *os.File
	rc  syscall.RawConn
	buf []byte
}

// newConn takes the socket over.
func newConn(f *os.File) (*conn, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use socket: %w", err)
	}
	return &conn{f: f, rc: rc}, nil
}

// inheritedConn is the conn at descriptor fd, which the parent left open across exec.
func inheritedConn(fd int) (*conn, error) {
	syscall.CloseOnExec(fd)
	// The parent's os package may have made it blocking; without this it would not meet the poller.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("descriptor %d is not the socket of a sandbox: %w", fd, err)
	}
	return newConn(os.NewFile(uintptr(fd), "sandbox socket"))
}

func (c *conn) send(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("send %s: %d bytes, at most %d; use fewer --add-host", m.Kind, len(b), maxMessage)
	}
	var files []*os.File
	if m.file != nil {
		files = []*os.File{m.file}
	}
	if err := sys.SendMessage(c.rc, b, files...); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive waits for a message. io.EOF says that the other side is gone.
func (c *conn) receive() (message, error) {
	if c.buf == nil {
		c.buf = make([]byte, maxMessage)
	}
	n, files, err := sys.RecvMessage(c.rc, c.buf)
	if errors.Is(err, syscall.ECONNRESET) {
		// The other side ended with a message of ours unread. That comes first, once; what it had sent
		// before, why it gives up perhaps, is still there to read.
		n, files, err = sys.RecvMessage(c.rc, c.buf)
	}
	if err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(c.buf[:n], &m); err != nil {
		closeAll(files)
		return message{}, fmt.Errorf("read message: %w", err)
	}
	if len(files) != 0 {
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
	case m.file != nil:
		m.file.Close()
	}
	if m.Kind == kindFailed {
		return message{}, &Error{Code: m.Code, Err: errors.New(m.Error)}
	}
	return message{}, fmt.Errorf("unexpected message %q, want %q", m.Kind, k)
}

func (c *conn) close() error { return c.f.Close() }

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

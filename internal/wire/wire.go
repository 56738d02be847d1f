// Package wire carries messages between two processes of this program: one JSON value with up to
// MaxFiles descriptors beside it, over a unix SEQPACKET socket.
//
// # Theory of operation
//
// A SEQPACKET socket keeps the borders of messages, so there is no framing of our own: what is
// sent at once arrives at once or not at all, and the descriptors stay with the message they were
// sent with. Several goroutines may therefore send without a lock.
//
// Receive asks for the length of the next message before it takes it, and makes room for just that.
// A process that waits on thousands of sockets keeps no buffer for any of them, and no goroutine with a Poller.
//
// # Limits and errors
//
// Each Conn bounds the bytes of a message in both directions; the sender is told, and what is
// longer at the receiver is dropped with its descriptors. No descriptor of a message that is
// an error stays open. What a message means is its reader's business; Receive only decodes it.
//
// The end of the other process is io.EOF at the receiver, after everything it had sent, also when it
// ended without reading what was sent to it. Gone recognizes that end in every form.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/sys"
)

// MaxFiles is how many descriptors a message may carry.
const MaxFiles = sys.MaxFDs

// DefaultMaxMessage bounds a message in bytes where nothing else is said. The kernel's default socket buffer
// holds three such messages.
const DefaultMaxMessage = 64 << 10

// ErrFilesLost says that a message came without its descriptors, because this process may open no
// more. The message itself is there.
var ErrFilesLost = sys.ErrDescriptorsLost

// ErrTooLong says that a message has more bytes than the Conn takes. One that was to be sent was not.
var ErrTooLong = errors.New("message too long")

// Socket is a connected SEQPACKET socket in non-blocking mode: an *os.File or a *net.UnixConn.
type Socket interface {
	io.Closer
	SyscallConn() (syscall.RawConn, error)
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Conn is one end of a connection. Sends may come from several goroutines; receives belong to one.
type Conn struct {
	s   Socket
	rc  syscall.RawConn
	max int
}

// New takes s over. maxMessage bounds each message in bytes; 0 means DefaultMaxMessage.
func New(s Socket, maxMessage int) (*Conn, error) {
	rc, err := s.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use socket: %w", err)
	}
	if maxMessage <= 0 {
		maxMessage = DefaultMaxMessage
	}
	return &Conn{s: s, rc: rc, max: maxMessage}, nil
}

// Inherited is New for the socket that the parent process left open at descriptor fd. It is the
// child's first act: what the child starts itself does not get the socket.
func Inherited(fd, maxMessage int) (*Conn, error) {
	syscall.CloseOnExec(fd)
	// Starting a process made it blocking; receiving wants it on the poller.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("use descriptor %d as a socket: %w", fd, err)
	}
	return New(os.NewFile(uintptr(fd), "inherited socket"), maxMessage)
}

// Send sends v as JSON with duplicates of files, which stay the caller's. It waits until the other
// side has room.
func (c *Conn) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) > c.max {
		return fmt.Errorf("send message: %w: %d bytes, at most %d", ErrTooLong, len(b), c.max)
	}
	return sys.SendMessage(c.rc, b, files...)
}

// Receive waits for the next message, decodes it into what into points to (a zero value, as for
// json.Unmarshal) and returns its descriptors, which are the caller's. io.EOF says that the other side is gone.
// ErrFilesLost comes with a message decoded. After any other error into means nothing.
func (c *Conn) Receive(into any) ([]*os.File, error) {
	n, err := sys.NextMessage(c.rc)
	if errors.Is(err, syscall.ECONNRESET) {
		n, err = sys.NextMessage(c.rc) // see afterReset
	}
	if err != nil {
		return nil, err
	}
	if n > c.max {
		err := fmt.Errorf("receive message: %w: %d bytes, at most %d", ErrTooLong, n, c.max)
		// Taking it into less room than it needs drops the rest and closes what came with it.
		if _, files, _ := sys.RecvMessage(c.rc, make([]byte, 1)); files != nil {
			closeAll(files)
		}
		return nil, err
	}
	buf := make([]byte, n)
	n, files, lost := afterReset(c.rc, buf)
	if lost != nil && !errors.Is(lost, ErrFilesLost) {
		return nil, lost
	}
	if err := json.Unmarshal(buf[:n], into); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return files, lost
}

// afterReset receives a message. When the other side has ended with a message of ours unread, the kernel says so first,
// once, at whatever moment; what the other side had sent before, why it gives up perhaps, is still there to read.
func afterReset(rc syscall.RawConn, buf []byte) (n int, files []*os.File, err error) {
	if n, files, err = sys.RecvMessage(rc, buf); errors.Is(err, syscall.ECONNRESET) {
		n, files, err = sys.RecvMessage(rc, buf)
	}
	return n, files, err
}

// SetSendDeadline makes sends that have not found room at t fail with os.ErrDeadlineExceeded; the zero
// time takes it back.
func (c *Conn) SetSendDeadline(t time.Time) error { return c.s.SetWriteDeadline(t) }

// SetReceiveDeadline does the same for receives.
func (c *Conn) SetReceiveDeadline(t time.Time) error { return c.s.SetReadDeadline(t) }

// Close ends the connection and interrupts whoever sends or receives.
func (c *Conn) Close() error { return c.s.Close() }

// Gone reports whether err, of Send or Receive, says that the connection has ended: by the other
// side, or by Close here.
func Gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
)

// conn is one end of the socketpair. Sends may come from several goroutines, a message each;
// receives belong to one.
type conn struct {
	f   *os.File
	rc  syscall.RawConn
	buf []byte
}

// newConn takes over f, a non-blocking SEQPACKET socket.
func newConn(f *os.File) (*conn, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open datapath socket: %w", err)
	}
	return &conn{f: f, rc: rc, buf: make([]byte, MaxMessage)}, nil
}

// send encodes body into m and sends it with at most one file, which stays the caller's.
func (c *conn) send(m message, body any, file *os.File) error {
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s body: %w", m.Kind, err)
		}
		m.Body = b
	}
	b, err := encode(m)
	if err != nil {
		return err
	}
	if file != nil {
		return sys.SendMessage(c.rc, b, file)
	}
	return sys.SendMessage(c.rc, b)
}

// receive returns the next message and the descriptor that came with it, which is the caller's.
// A message with more than one descriptor is refused and all of them are closed. One whose
// descriptor was lost, since flows have used up all there may be, comes without: that is
// no reason to end flows.
func (c *conn) receive() (message, *os.File, error) {
	n, files, err := sys.RecvMessage(c.rc, c.buf)
	if err != nil && !errors.Is(err, sys.ErrDescriptorsLost) {
		return message{}, nil, err
	}
	m, err := decode(c.buf[:n])
	if err == nil && len(files) > 1 {
		err = fmt.Errorf("decode %s message: %d descriptors, at most one", m.Kind, len(files))
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return message{}, nil, err
	}
	if len(files) == 1 {
		return m, files[0], nil
	}
	return m, nil, nil
}

func (c *conn) close() error { return c.f.Close() }

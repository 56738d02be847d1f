package sys

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// closedError makes the error of a RawConn one that a caller can recognise: os says that a file
// was closed by an internal error, which is neither os.ErrClosed nor net.ErrClosed.
func closedError(rc syscall.RawConn, err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if rc.Control(func(uintptr) {}) != nil {
		return os.ErrClosed
	}
	return err
}

package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxFDs is how many descriptors one message may carry. The kernel's own limit is 253; a message
// of ours never needs that many.
const MaxFDs = 64

// Socketpair makes two connected SEQPACKET sockets: messages keep their borders and arrive in
// order, and the end of one is an io.EOF at the other. Both are close-on-exec and non-blocking.
func Socketpair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// SendMessage sends msg, which is not empty, with duplicates of files to a SEQPACKET socket; the
// files stay the caller's. It waits until the peer has room. Interrupt it by closing the socket or
// by a deadline.
func SendMessage(rc syscall.RawConn, msg []byte, files ...*os.File) error {
	if len(msg) == 0 {
		// The peer could not tell it from the end of the stream.
		return errors.New("send message: it is empty")
	}
	if len(files) > MaxFDs {
		return fmt.Errorf("send message: %d descriptors, at most %d", len(files), MaxFDs)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Not Fd: that would make the file blocking.
			if err := controlFD(f, func(fd int) { fds[i] = fd }); err != nil {
				return fmt.Errorf("send descriptor of %s: %w", f.Name(), err)
			}
		}
		oob = unix.UnixRights(fds...)
	}
	var n int
	var serr error
	err := rc.Write(func(fd uintptr) bool {
		for {
			n, serr = unix.SendmsgN(int(fd), msg, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if serr != unix.EINTR {
				return serr != unix.EAGAIN
			}
		}
	})
	err = closedError(rc, err)
	runtime.KeepAlive(files)
	switch {
	case err != nil:
		return fmt.Errorf("send message: %w", err)
	case serr != nil:
		return fmt.Errorf("send message of %d bytes: %w", len(msg), serr)
	case n != len(msg):
		return fmt.Errorf("send message: %w", io.ErrShortWrite)
	}
	return nil
}

func controlFD(f *os.File, use func(fd int)) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { use(int(fd)) })
}

// ErrDescriptorsLost says that a message came without its descriptors, because this process may
// open no more (SCM_RIGHTS in unix(7)).
var ErrDescriptorsLost = errors.New("receive message: descriptors are missing; raise the limit of open files")

// NextMessage waits for a message and returns its length, without taking it. io.EOF says that the peer is gone.
func NextMessage(rc syscall.RawConn) (int, error) {
	var n int
	var rerr error
	var some [1]byte // the kernel counts the whole message all the same
	err := rc.Read(func(fd uintptr) bool {
		for {
			n, _, _, _, rerr = unix.Recvmsg(int(fd), some[:], nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
			if rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	})
	err = closedError(rc, err)
	switch {
	case err == nil && rerr == nil && n == 0:
		err = io.EOF
	case err == nil:
		err = rerr
	}
	if err != nil {
		return 0, fmt.Errorf("receive message: %w", err)
	}
	return n, nil
}

// RecvMessage waits for a message, puts it into buf and returns its length and the descriptors
// that came with it, close-on-exec, which become the caller's. io.EOF says that the peer is gone.
// A message that does not fit is an error. One whose descriptors were cut off by the kernel is there
// without them, beside ErrDescriptorsLost. No descriptor of either stays open.
func RecvMessage(rc syscall.RawConn, buf []byte) (int, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFDs))
	var n, oobn, flags int
	var rerr error
	err := rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			if rerr != unix.EINTR {
				return rerr != unix.EAGAIN
			}
		}
	})
	err = closedError(rc, err)
	if err == nil {
		err = rerr
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receive message: %w", err)
	}
	fds := rights(oob[:oobn])
	switch {
	case flags&unix.MSG_CTRUNC != 0:
		err = ErrDescriptorsLost
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("receive message: it is longer than %d bytes", len(buf))
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		if !errors.Is(err, ErrDescriptorsLost) || flags&unix.MSG_TRUNC != 0 {
			n = 0
		}
		return n, nil, err
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		// NewFile puts it on the poller when its description is non-blocking.
		files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("received descriptor %d", i))
	}
	return n, files, nil
}

// rights returns all descriptors in the control messages b.
func rights(b []byte) (fds []int) {
	for {
		level, typ, data, rest, ok := nextCmsg(b)
		if !ok {
			return fds
		}
		b = rest
		if level != unix.SOL_SOCKET || typ != unix.SCM_RIGHTS {
			continue
		}
		for ; len(data) >= 4; data = data[4:] {
			fds = append(fds, int(*(*int32)(unsafe.Pointer(&data[0]))))
		}
	}
}

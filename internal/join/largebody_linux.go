package join

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/portfwd"
)

// What a memory file must forbid before it is believed: then nobody can change or cut it while it is read, and
// reading it never waits.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK

// pack puts a body into a sealed memory file, which is the caller's.
func pack(b []byte) (*os.File, error) {
	if len(b) > maxBody {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxBody)
	}
	fd, err := unix.MemfdCreate("usernet-body", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "body")
	if _, err = f.Write(b); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("fill memory file: %w", err)
	}
	return f, nil
}

// unpack reads a body from what somebody sent as a memory file. f stays the caller's.
func unpack(f *os.File) ([]byte, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var size int64
	var serr error
	err = rc.Control(func(fd uintptr) {
		var st unix.Stat_t
		got, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
		switch {
		case err != nil:
			serr = errors.New("it is not a memory file")
		case got&seals != seals:
			serr = errors.New("it is not sealed")
		default:
			serr = unix.Fstat(int(fd), &st)
			size = st.Size
		}
	})
	if err = errors.Join(err, serr); err != nil {
		return nil, err
	}
	if size > maxBody {
		return nil, fmt.Errorf("it has %d bytes, at most %d", size, maxBody)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// held is an open file that this process keeps without using it: a bare descriptor, since one in the runtime's
// poller would wake the process for each packet or connection that another handles.
type held int

// hold makes a duplicate of f.
func hold(f *os.File) (held, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, derr := -1, error(nil)
	if err := rc.Control(func(u uintptr) { fd, derr = unix.FcntlInt(u, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1, err
	}
	return held(fd), derr
}

// file makes a duplicate to send; close it at once after.
func (h held) file() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(h), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "held file"), nil
}

func (h held) close() { unix.Close(int(h)) }

// unpolled makes a duplicate of f, a non-blocking socket, that is not in the runtime's poller, as
// portfwd.Listener wants it. For a moment the socket blocks, so nobody may be using it.
func unpolled(f *os.File) (*os.File, error) {
	h, err := hold(f)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(h), false); err != nil {
		h.close()
		return nil, err
	}
	g := os.NewFile(uintptr(h), f.Name())
	if err := unix.SetNonblock(int(h), true); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// boundSocket refuses what is not the socket of the port that s names: the other side says which it is, the
// kernel knows. A stuck or hostile shim could send anything as a listener, or as that of another's port.
func boundSocket(f *os.File, s portfwd.Spec) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	tcp, want := s.Proto == portfwd.TCP, unix.SOCK_DGRAM
	if tcp {
		want = unix.SOCK_STREAM
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		at, err := boundTo(int(fd))
		if err == nil && (at != netip.AddrPortFrom(s.HostIP.WithZone(""), s.HostPort) || s.HostPortEnd != 0) {
			err = fmt.Errorf("it is bound to %s", at)
		}
		kind, kerr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		if kerr == nil && kind != want {
			kerr = syscall.EPROTOTYPE
		}
		listens, lerr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if lerr == nil && tcp && listens == 0 {
			lerr = syscall.EINVAL
		}
		serr = errors.Join(err, kerr, lerr)
	})
	return errors.Join(err, serr)
}

// boundTo is the address of an IP socket.
func boundTo(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, syscall.EAFNOSUPPORT
}

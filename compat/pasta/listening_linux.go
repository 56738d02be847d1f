package pasta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/compat/pasta/forward"
)

// Who listens where, by sock_diag (linux/inet_diag.h): the kernel lists the sockets of the network namespace that the
// netlink socket was made in, whoever asks by it, and only those in the states asked for. So a look costs one
// exchange for each family and transport, however many connections there are.

// bound is a set of ports of one transport.
type bound map[uint16]bool

// listener lists the ports that are bound in one network namespace.
type listener struct {
	socket *os.File
	buf    []byte
}

func newListener(socket *os.File) *listener {
	return &listener{socket: socket, buf: make([]byte, 32<<10)}
}

// hostListener is the one of the calling process's namespace.
func hostListener() (*listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("list the host's sockets: %w", err)
	}
	return newListener(os.NewFile(uintptr(fd), "sock_diag")), nil
}

func (l *listener) close() { l.socket.Close() }

// The layout of the messages, in bytes.
const (
	headerSize  = unix.SizeofNlMsghdr
	requestSize = headerSize + 56
	// A socket that is bound and not connected is in one of these states.
	tcpListen  = 10
	udpUnbound = 7
	portOffset = headerSize + 4
	socketSize = headerSize + 72
)

// ports lists the bound ports of a transport, of both families.
func (l *listener) ports(proto forward.Proto) (bound, error) {
	ports := bound{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := l.dump(family, proto, ports); err != nil {
			return nil, fmt.Errorf("list %v sockets: %w", proto, err)
		}
	}
	return ports, nil
}

func (l *listener) dump(family uint8, proto forward.Proto, ports bound) error {
	state := uint32(1 << tcpListen)
	if proto == forward.UDP {
		state = 1 << udpUnbound
	}
	var b [requestSize]byte
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], requestSize)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[headerSize], b[headerSize+1] = family, uint8(proto)
	ne.PutUint32(b[headerSize+4:], state)
	rc, err := l.socket.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		if inner = unix.Sendto(int(fd), b[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); inner == nil {
			inner = l.receive(int(fd), ports)
		}
	})
	return errors.Join(err, inner)
}

// receive takes the answer. The kernel makes it while it is asked for, so there is nothing to wait for.
func (l *listener) receive(fd int, ports bound) error {
	for {
		n, _, err := unix.Recvfrom(fd, l.buf, unix.MSG_DONTWAIT)
		if err != nil {
			return err
		}
		done, err := parseSockets(l.buf[:n], ports)
		if done || err != nil {
			return err
		}
	}
}

// parseSockets reads one datagram of an answer; done says that it was the last.
func parseSockets(b []byte, ports bound) (done bool, err error) {
	for len(b) >= headerSize {
		size := binary.NativeEndian.Uint32(b)
		if size < headerSize || int64(size) > int64(len(b)) {
			return false, errors.New("the kernel's answer is cut")
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if size >= headerSize+4 {
				if e := int32(binary.NativeEndian.Uint32(b[headerSize:])); e != 0 {
					return false, unix.Errno(-e)
				}
			}
			return true, nil
		case unix.SOCK_DIAG_BY_FAMILY:
			if size < socketSize {
				return false, errors.New("the kernel's answer is cut")
			}
			ports[binary.BigEndian.Uint16(b[portOffset:])] = true
		}
		next := min((int64(size)+3)&^3, int64(len(b)))
		b = b[next:]
	}
	return false, nil
}

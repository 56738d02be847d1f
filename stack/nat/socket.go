package nat

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/ip"
)

// socketBuffer is what a flow's socket may hold in the kernel each way. It is a bound and costs nothing
// while empty; the usual default of 208 KiB is three GSO trains. The kernel lowers it to net.core.{r,w}mem_max.
const socketBuffer = 1 << 20

// socket is a host socket of one flow: unconnected, non-blocking, known to the Go poller.
type socket struct {
	file *os.File
	rc   syscall.RawConn
	v6   bool

	// The rest belongs to the sender (flow.sendMu).

	df bool // what IP_MTU_DISCOVER is set to
	// gsoMax is the largest datagram we join into a GSO train of our own. It falls to below what the
	// kernel refuses (larger than the path takes), and to 0 where the way out cannot do GSO at all.
	gsoMax int
}

// noGSOMax is the gsoMax of a socket that has met no refusal.
const noGSOMax = 1 << 16

// openSocket makes a datagram socket of the family of v6 for an IP protocol (UDP, ICMP, ICMPv6),
// bound to bind if that is valid. The kernel chooses the port or the echo identifier, at random.
func openSocket(proto uint8, v6 bool, bind netip.Addr) (*socket, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	if err := setUp(fd, proto, v6, bind); err != nil {
		unix.Close(fd)
		return nil, err
	}
	s := &socket{file: os.NewFile(uintptr(fd), "flow"), v6: v6, gsoMax: noGSOMax}
	if s.rc, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return s, nil
}

func setUp(fd int, proto uint8, v6 bool, bind netip.Addr) error {
	options := sys.OptRecvErr | sys.OptTTL
	if proto == ip.UDP {
		options |= sys.OptUDPGRO
	}
	if v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("restrict socket to ipv6: %w", err)
		}
	}
	if err := sys.SetOptionsFD(fd, v6, options); err != nil {
		return fmt.Errorf("set socket options: %w", err)
	}
	if err := setDF(fd, v6, false); err != nil {
		return err
	}
	// Best effort: a smaller buffer loses sooner in a burst and is no error.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	if bind.IsValid() {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(bind, 0))); err != nil {
			return fmt.Errorf("bind socket to %s: %w", bind, err)
		}
	}
	return nil
}

// bindDevice makes the socket send and receive by one interface of the host. Since Linux 5.7 that needs no privilege.
func (s *socket) bindDevice(device string) error {
	var err error
	if cerr := s.rc.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		s.close()
		return fmt.Errorf("bind socket to interface %s: %w", device, err)
	}
	return nil
}

// setDF says whether datagrams leave with DF set, and are refused with EMSGSIZE when too large for the
// path, or are fragmented here (RFC 4787 REQ-13 and 13a).
func setDF(fd int, v6, df bool) error {
	level, name, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if v6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if df {
		value = unix.IP_PMTUDISC_DO // the values are the same in both families
	}
	if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
		return fmt.Errorf("set path mtu discovery: %w", err)
	}
	return nil
}

// setDF makes the socket send with or without DF from now on.
func (s *socket) setDF(df bool) error {
	if s.df == df {
		return nil
	}
	var err error
	if cerr := s.rc.Control(func(fd uintptr) { err = setDF(int(fd), s.v6, df) }); cerr != nil {
		return cerr
	}
	if err == nil {
		s.df = df
	}
	return err
}

func (s *socket) close() { _ = s.file.Close() }

// pathMTU asks the kernel for the path MTU to dst it would use from bind: 0 when it has no route. It
// costs a socket, which is why it is asked only when a datagram was refused, and at the rate of ICMP errors.
func pathMTU(dst, bind netip.Addr) int {
	family, level, name := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	if dst.Is6() {
		family, level, name = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if bind.IsValid() && unix.Bind(fd, sockaddr(netip.AddrPortFrom(bind, 0))) != nil {
		return 0
	}
	if unix.Connect(fd, sockaddr(netip.AddrPortFrom(dst, 9))) != nil {
		return 0
	}
	mtu, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		return 0
	}
	return mtu
}

// isLocal reports whether a is an address of this host.
func isLocal(a netip.Addr) bool {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))) == nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

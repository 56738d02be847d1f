package sys

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Option is something a datagram socket is asked to do; options are or-ed.
type Option uint16

// The options.
const (
	OptPktInfo  Option = 1 << iota // report the local address and interface of each datagram
	OptTTL                         // report TTL (hop limit) and TOS (traffic class)
	OptRecvErr                     // keep ICMP errors in the error queue
	OptUDPGRO                      // join datagrams of one flow on receive
	OptNoFrag                      // set DF, never fragment here, ignore the cached path MTU (IP_PMTUDISC_PROBE)
	OptFreebind                    // allow a source address that is not configured here
)

// SetOptions turns options on for a socket; v6 says that its family is AF_INET6. An option the
// kernel lacks is an UnsupportedError and those after it are not set.
func SetOptions(rc syscall.RawConn, v6 bool, o Option) error {
	var err error
	if cerr := rc.Control(func(fd uintptr) { err = SetOptionsFD(int(fd), v6, o) }); cerr != nil {
		return cerr
	}
	return err
}

type sockopt struct {
	opt               Option
	level4, name4     int
	level6, name6     int
	value             int
	feature, required string
}

var sockopts = []sockopt{
	{OptPktInfo, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1, "packet info", ""},
	{OptTTL, unix.IPPROTO_IP, unix.IP_RECVTTL, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1, "reporting the TTL", ""},
	{OptTTL, unix.IPPROTO_IP, unix.IP_RECVTOS, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1, "reporting the TOS", ""},
	{OptRecvErr, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1, "the error queue", ""},
	{OptUDPGRO, unix.SOL_UDP, unix.UDP_GRO, unix.SOL_UDP, unix.UDP_GRO, 1, "UDP GRO", "Linux 5.0"},
	{OptNoFrag, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "path MTU probing", ""},
	{OptFreebind, unix.IPPROTO_IP, unix.IP_FREEBIND, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1, "free bind", "Linux 4.15"},
}

// SetOptionsFD is SetOptions on a bare descriptor.
func SetOptionsFD(fd int, v6 bool, o Option) error {
	for _, s := range sockopts {
		if o&s.opt == 0 {
			continue
		}
		level, name := s.level4, s.name4
		if v6 {
			level, name = s.level6, s.name6
		}
		err := unix.SetsockoptInt(fd, level, name, s.value)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return &UnsupportedError{Feature: s.feature, Need: s.required, Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

package sys

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bits of TUNSETOFFLOAD (linux/if_tun.h): what the reader of a TAP can digest.
const (
	TunCsum   = unix.TUN_F_CSUM
	TunTSO4   = unix.TUN_F_TSO4
	TunTSO6   = unix.TUN_F_TSO6
	TunTSOECN = unix.TUN_F_TSO_ECN
	TunUSO4   = unix.TUN_F_USO4
	TunUSO6   = unix.TUN_F_USO6
)

// TunVNetHeader is a flag of TunAttach, beside IFF_TAP and IFF_NO_PI, which it always sets.
const TunVNetHeader = unix.IFF_VNET_HDR

// OpenTun opens /dev/net/tun in the calling thread's network namespace. The descriptor is bare and
// non-blocking: it may go to the poller only after TunAttach, because an unattached one has no wait
// queue and would never wake anybody.
func OpenTun() (fd int, err error) {
	return unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// TunAttach connects fd to the TAP device name (TUNSETIFF), making it when there is none, and
// returns the device's name.
func TunAttach(fd int, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return "", err
	}
	return ifr.Name(), nil
}

// TunFlags returns the name of the device that fd is connected to and the flags it was connected with (TUNGETIFF).
func TunFlags(fd int) (name string, flags uint16, err error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", 0, err
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// TunSetOffload says what the reader can digest. EINVAL: a bit this kernel does not know.
func TunSetOffload(fd int, bits uint32) error {
	return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(bits))
}

// TunSetVNetHeaderLen sets the length of the virtio-net header.
func TunSetVNetHeaderLen(fd, n int) error {
	return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, n)
}

// TunClearPersist lets the device end with its last descriptor.
func TunClearPersist(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0) }

// HardwareAddr returns the MAC address of the device behind an attached fd, wherever that device is.
func HardwareAddr(fd int) (mac [6]byte, err error) {
	var ifr struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		data   [22]byte
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return mac, errno
	}
	copy(mac[:], ifr.data[:])
	return mac, nil
}

// SetHardwareAddr sets the MAC address of the device behind an attached fd.
func SetHardwareAddr(fd int, mac [6]byte) error {
	var ifr struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    [22]byte
	}
	ifr.family = unix.ARPHRD_ETHER
	copy(ifr.mac[:], mac[:])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}

// SetMTU sets the MTU of an interface of the calling thread's network namespace.
func SetMTU(name string, mtu int) error {
	return ifreq(name, unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(uint32(mtu)) }, nil)
}

// MTU returns the MTU of an interface of the calling thread's network namespace.
func MTU(name string) (mtu int, err error) {
	err = ifreq(name, unix.SIOCGIFMTU, nil, func(r *unix.Ifreq) { mtu = int(r.Uint32()) })
	return mtu, err
}

// InterfaceExists reports whether the calling thread's network namespace has an interface name.
func InterfaceExists(name string) (bool, error) {
	err := ifreq(name, unix.SIOCGIFINDEX, nil, nil)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

func ifreq(name string, req uint, before, after func(*unix.Ifreq)) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if before != nil {
		before(r)
	}
	if err := unix.IoctlIfreq(s, req, r); err != nil {
		return err
	}
	if after != nil {
		after(r)
	}
	return nil
}

// CloseFD closes a bare descriptor.
func CloseFD(fd int) { unix.Close(fd) }

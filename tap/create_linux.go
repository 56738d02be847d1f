package tap

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/songgao/water"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/l2"
)

// MinMTU and MaxMTU bound the MTU of a TAP: the least IPv4 allows (RFC 791) and the most the
// kernel's driver does (65535 less an Ethernet header).
const (
	MinMTU = 68
	MaxMTU = 65535 - l2.HeaderLen
)

// Info describes an attached TAP. It travels, as JSON, with the descriptor.
type Info struct {
	Name     string `json:"name"`
	VNet     bool   `json:"vnet"`     // each frame has a virtio-net header
	Offloads uint32 `json:"offloads"` // the TUN_F_ bits the kernel accepted
	MAC      l2.MAC `json:"mac,omitzero"`
	MTU      int    `json:"mtu"`
}

const (
	offloadTSO = sys.TunCsum | sys.TunTSO4 | sys.TunTSO6 | sys.TunTSOECN
	offloadUSO = sys.TunUSO4 | sys.TunUSO6
)

// mode is what attach asks for, at most; tests ask for less to act an older kernel.
type mode struct {
	plain    bool
	offloads []uint32 // tried in order
}

var bestMode = mode{offloads: []uint32{offloadTSO | offloadUSO, offloadTSO}}

// Create makes a TAP device in the calling thread's network namespace and returns a non-blocking
// descriptor of it. The device ends when the last duplicate of the descriptor is closed. The zero
// MAC leaves the kernel's random one. The caller needs CAP_NET_ADMIN in the namespace and locks
// itself to its thread if not all threads are in that namespace.
func Create(name string, mtu int, mac l2.MAC) (*os.File, Info, error) {
	return create(name, mtu, mac, bestMode)
}

func create(name string, mtu int, mac l2.MAC, m mode) (*os.File, Info, error) {
	if err := checkName(name); err != nil {
		return nil, Info{}, fmt.Errorf("create TAP %q: %w", name, err)
	}
	if mtu < MinMTU || mtu > MaxMTU {
		return nil, Info{}, fmt.Errorf("create TAP %s: MTU %d is not between %d and %d", name, mtu, MinMTU, MaxMTU)
	}
	if mac.IsMulticast() {
		return nil, Info{}, fmt.Errorf("create TAP %s: %v is a group address; clear the lowest bit of its first byte", name, mac)
	}
	// Ours is opened first, so that an error of opening is seen before anything is made.
	fd, err := open()
	if err != nil {
		return nil, Info{}, err
	}
	info, err := createAttached(fd, name, mtu, mac, m)
	if err != nil {
		sys.CloseFD(fd)
		return nil, Info{}, err
	}
	return os.NewFile(uintptr(fd), "tap "+name), info, nil
}

func createAttached(fd int, name string, mtu int, mac l2.MAC, m mode) (Info, error) {
	exists, err := sys.InterfaceExists(name)
	if err != nil {
		return Info{}, fmt.Errorf("create TAP %s: %w", name, err)
	}
	if exists {
		// TUNSETIFF would silently take it over.
		return Info{}, fmt.Errorf("create TAP %s: an interface of that name exists already; choose another name", name)
	}
	dev, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, Persist: true},
	})
	if err != nil {
		return Info{}, hint(fmt.Errorf("create TAP %s: %w", name, err))
	}
	if err := dev.Close(); err != nil {
		return Info{}, fmt.Errorf("create TAP %s: %w", name, err)
	}
	info, err := attach(fd, name, m)
	if err != nil {
		// Works when fd got as far as being attached, and then the device goes with it.
		_ = sys.TunClearPersist(fd)
		return Info{}, err
	}
	if err := sys.TunClearPersist(fd); err != nil {
		return Info{}, fmt.Errorf("clear persistence of TAP %s: %w", name, err)
	}
	if !mac.IsZero() {
		if err := sys.SetHardwareAddr(fd, mac); err != nil {
			return Info{}, fmt.Errorf("set MAC address of TAP %s to %v: %w", name, mac, err)
		}
	}
	if err := sys.SetMTU(name, mtu); err != nil {
		return Info{}, fmt.Errorf("set MTU of TAP %s to %d: %w", name, mtu, err)
	}
	info.MTU = mtu
	if info.MAC, err = hardwareAddr(fd, name); err != nil {
		return Info{}, err
	}
	return info, nil
}

func hardwareAddr(fd int, name string) (l2.MAC, error) {
	mac, err := sys.HardwareAddr(fd)
	if err != nil {
		return l2.MAC{}, fmt.Errorf("read MAC address of TAP %s: %w", name, err)
	}
	return mac, nil
}

// Attach opens the persistent TAP device name, which somebody else made and configured, in the
// calling thread's network namespace. The device outlives the descriptor.
func Attach(name string) (*os.File, Info, error) {
	return attachExisting(name, bestMode)
}

func attachExisting(name string, m mode) (*os.File, Info, error) {
	if err := checkName(name); err != nil {
		return nil, Info{}, fmt.Errorf("attach TAP %q: %w", name, err)
	}
	exists, err := sys.InterfaceExists(name)
	if err != nil {
		return nil, Info{}, fmt.Errorf("attach TAP %s: %w", name, err)
	}
	if !exists {
		// TUNSETIFF would silently make it.
		return nil, Info{}, fmt.Errorf(`attach TAP %s: no such interface; make it with "ip tuntap add %s mode tap"`, name, name)
	}
	fd, err := open()
	if err != nil {
		return nil, Info{}, err
	}
	info, err := attach(fd, name, m)
	if err == nil {
		info.MTU, err = sys.MTU(name)
	}
	if err == nil {
		info.MAC, err = hardwareAddr(fd, name)
	}
	if err != nil {
		sys.CloseFD(fd)
		return nil, Info{}, err
	}
	return os.NewFile(uintptr(fd), "tap "+name), info, nil
}

// attach connects fd to the device and agrees with the kernel on the most that both can do.
func attach(fd int, name string, m mode) (Info, error) {
	info := Info{Name: name, VNet: !m.plain}
	err := syscall.EINVAL
	if info.VNet {
		err = tunAttach(fd, name, sys.TunVNetHeader)
	}
	if err == syscall.EINVAL { // no such flag, or not wanted
		info.VNet = false
		err = tunAttach(fd, name, 0)
	}
	switch err {
	case 0:
	case syscall.EINVAL:
		return Info{}, fmt.Errorf("attach TAP %s: %w; it must be a TAP device with one queue", name, err)
	case syscall.EBUSY:
		return Info{}, fmt.Errorf("attach TAP %s: %w; end the process that has it open", name, err)
	default:
		return Info{}, hint(fmt.Errorf("attach TAP %s: %w", name, err))
	}
	if info.VNet {
		if err := sys.TunSetVNetHeaderLen(fd, l2.VNetLen); err != nil {
			return Info{}, fmt.Errorf("set virtio-net header of TAP %s: %w", name, err)
		}
		for _, bits := range m.offloads {
			err := sys.TunSetOffload(fd, bits)
			if err == nil {
				info.Offloads = bits
				return info, nil
			}
			if !errors.Is(err, syscall.EINVAL) {
				return Info{}, fmt.Errorf("set offloads of TAP %s: %w", name, err)
			}
		}
	}
	// A device made by somebody else may still have what its last user promised.
	if err := sys.TunSetOffload(fd, 0); err != nil {
		return Info{}, fmt.Errorf("clear offloads of TAP %s: %w", name, err)
	}
	return info, nil
}

func tunAttach(fd int, name string, flags uint16) syscall.Errno {
	_, err := sys.TunAttach(fd, name, flags)
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return syscall.EINVAL
	}
	return errno
}

func open() (int, error) {
	fd, err := sys.OpenTun()
	if err != nil {
		return -1, openError(err)
	}
	return fd, nil
}

func openError(err error) error {
	err = fmt.Errorf("open /dev/net/tun: %w", err)
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf(`%w; run "chmod 666 /dev/net/tun" as root`, err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf(`%w; run "modprobe tun" as root`, err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w; the device cgroup forbids it: allow character device 10:200", err)
	}
	return err
}

func hint(err error) error {
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w; it needs CAP_NET_ADMIN in the user namespace that owns the network namespace", err)
	}
	return err
}

// checkName refuses what the kernel would refuse (dev_valid_name) and what it would change: a
// percent sign makes the name a template.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > 15:
		return errors.New("the name must have 1 to 15 bytes")
	case name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00"):
		return errors.New("the name must have no slash, colon, percent sign or space")
	}
	return nil
}

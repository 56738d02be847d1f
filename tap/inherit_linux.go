package tap

import (
	"fmt"
	"os"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/l2"
)

// Inherit makes a TAP of descriptor fd, which somebody else connected to a device, and takes it over. The device
// may be in another network namespace: nothing but the descriptor is used. mtu is what its frames are bounded by.
func Inherit(fd, mtu int) (*os.File, Info, error) {
	name, flags, err := sys.TunFlags(fd)
	if err != nil {
		return nil, Info{}, fmt.Errorf("inherit TAP from descriptor %d: %w; it must be one of /dev/net/tun after TUNSETIFF", fd, err)
	}
	if flags&syscall.IFF_TAP == 0 || flags&syscall.IFF_NO_PI == 0 {
		return nil, Info{}, fmt.Errorf("inherit TAP %s from descriptor %d: it must be made with IFF_TAP and IFF_NO_PI", name, fd)
	}
	info := Info{Name: name, VNet: flags&sys.TunVNetHeader != 0, MTU: mtu}
	if info.VNet {
		if err := sys.TunSetVNetHeaderLen(fd, l2.VNetLen); err != nil {
			return nil, Info{}, fmt.Errorf("set virtio-net header of TAP %s: %w", name, err)
		}
	}
	// What it was told to leave to its reader before is not known; without a header nothing may be.
	want := []uint32{0}
	if info.VNet {
		want = append(bestMode.offloads[:len(bestMode.offloads):len(bestMode.offloads)], 0)
	}
	for _, bits := range want {
		if err = sys.TunSetOffload(fd, bits); err == nil {
			info.Offloads = bits
			break
		}
	}
	if err != nil {
		return nil, Info{}, fmt.Errorf("set offloads of TAP %s: %w", name, err)
	}
	if info.MAC, err = hardwareAddr(fd, name); err != nil {
		return nil, Info{}, err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, Info{}, fmt.Errorf("inherit TAP %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "tap "+name), info, nil
}

package sys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Disconnect makes a TCP socket that was connected, refused or listening one that is neither, by connecting
// it to AF_UNSPEC (connect(2)). What was connected is reset.
func Disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

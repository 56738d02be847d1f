package rig

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl is ioctl(2) with a pointer to a structure that package unix has no function for.
func ioctl[T any](fd int, op uintptr, arg *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), op, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}

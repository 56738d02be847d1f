package cnm

import (
	"os"

	"golang.org/x/sys/unix"
)

// dupFile is another descriptor of the same socket, as one that was sent to a shim and back.
func dupFile(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "kept"), nil
}

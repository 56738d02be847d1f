package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Keep returns a descriptor of our own for the open file behind f, for a process that keeps it and leaves
// reading and writing to others. f stays as it is.
//
// os.NewFile would put a non-blocking descriptor into this process's poller, which would then wake for each packet
// that another process handles. So the File is made of something that no poller takes, and the
// descriptor under it replaced before anybody else sees it.
func Keep(f *os.File) (*os.File, error) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", f.Name(), err)
	}
	kept := os.NewFile(uintptr(fd), f.Name())
	var derr error
	err = controlFD(f, func(of int) { derr = unix.Dup3(of, fd, unix.O_CLOEXEC) })
	if err == nil {
		err = derr
	}
	if err != nil {
		kept.Close()
		return nil, fmt.Errorf("keep %s: %w", f.Name(), err)
	}
	return kept, nil
}

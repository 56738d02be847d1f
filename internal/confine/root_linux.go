package confine

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mountPoint is covered by the new root for the moment before it is the root. Every host a Go
// program runs on has it.
const mountPoint = "/proc"

// emptyRoot makes the root of the process an empty file system that cannot be written, and lets go
// of the host's mounts. It acts on all threads, because they share one fs_struct.
func emptyRoot(namespaces Layer) error {
	if !namespaces.On {
		return errors.New("needs namespaces")
	}
	// Private, or the kernel refuses pivot_root, and what we mount would show on the host.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount private", err)
	}
	// One inode for the root itself is all that fits.
	const flags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSUID
	if err := unix.Mount("tmpfs", mountPoint, "tmpfs", flags, "nr_inodes=2,nr_blocks=1,mode=0555"); err != nil {
		return os.NewSyscallError("mount tmpfs", err)
	}
	if err := unix.Chdir(mountPoint); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	// The old root lands on top of the new one (pivot_root(2), "pivot_root(".", ".")"), where umount
	// finds it.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

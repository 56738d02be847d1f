package programs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// Whoever enters Debian13 sees the files of the other Debian. It is not a chroot: who is in one may not make user
// namespaces. So a process of root, in a mount namespace of its own, has its root exchanged by pivot_root. /run, /tmp,
// /proc, /sys and /dev stay what they were, for the programs under test and whatever is passed by a path; /etc is the
// other Debian's, with users, subordinate ids and resolv.conf of the process that enters.

// Enter makes Debian13 the root of this process. scratch is a directory, /run or /tmp or in one of these, for the new
// root and for the copy of its /etc; resolvConf is what /etc/resolv.conf there leads to, by the same path.
func Enter(scratch, resolvConf string) error {
	root, etc := filepath.Join(scratch, "debian-13"), filepath.Join(scratch, "etc-13")
	for _, step := range []func() error{
		func() error { return bindRoot(root) }, func() error { return shareMounts(root) },
		func() error { return lendEtc(root, etc, resolvConf) }, func() error { return pivot(root) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("enter %s: %w", Debian13, err)
		}
	}
	return nil
}

// bindRoot shows the unpacked packages at root.
func bindRoot(root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(Debian13, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", Debian13, err)
	}
	return nil
}

// shareMounts shows there what is the process's.
func shareMounts(root string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// podman's locks are there, and another version's must not be in the same place.
	if err := unix.Mount("shm", root+"/dev/shm", "tmpfs", unix.MS_NOSUID, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// lendEtc puts a copy in the place of /etc there.
func lendEtc(root, etc, resolvConf string) error {
	if out, err := exec.Command("cp", "-a", Debian13+"/etc", etc).CombinedOutput(); err != nil {
		return fmt.Errorf("copy /etc: %w\n%s", err, out)
	}
	for _, name := range []string{"passwd", "group", "subuid", "subgid", "nsswitch.conf", "hosts"} {
		b, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
			return err
		}
	}
	// A link, because a test may put another file in its place.
	link := filepath.Join(etc, "resolv.conf")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(resolvConf, link); err != nil {
		return err
	}
	if err := unix.Mount(etc, root+"/etc", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc: %w", err)
	}
	return nil
}

// pivot makes root the root.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root is stacked under the new one, and taken away from below it: pivot_root(2), "pivot_root(".", ".")".
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("exchange root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// podman warns where the root is not a shared mount, as it is on a machine with systemd.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

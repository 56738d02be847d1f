package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/rootless-tests/programs"
)

// Theory of operation
//
// Debian13 is a node in H whose commands see the files of another Debian, as the ordinary user. It is not a chroot:
// who is in one may not make user namespaces. So the node has a mount namespace of its own, whose root is exchanged
// by pivot_root. /run, /tmp, /proc, /sys and /dev are those of the tests, for the programs under test and whatever a
// test passes by a path; /etc is the other Debian's, with the user, the subordinate ids and the resolv.conf of the
// tests.

// startDebian13 starts the node; its socket becomes descriptor fd of this process. It is ended by the end of that.
func startDebian13(fd int) error {
	mine, theirs, err := sys.Socketpair()
	if err != nil {
		return err
	}
	defer mine.Close()
	defer theirs.Close()
	c := exec.Command(nodeExe, rootRole, "3")
	c.ExtraFiles = []*os.File{theirs}
	c.Stderr = os.Stderr
	c.Env = userEnv()
	// No parent-death signal: what follows in this process is an exec, which ends the thread that is the parent.
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Setpgid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start node Debian13: %w", err)
	}
	if err := unix.Dup3(int(mine.Fd()), fd, 0); err != nil {
		return fmt.Errorf("pass socket of node Debian13: %w", err)
	}
	return nil
}

// enterRoot is the life of the node until it is one.
func enterRoot() error {
	const root = runDir + "/debian-13"
	for _, step := range []func(string) error{bindRoot, shareMounts, lendEtc, pivot} {
		if err := step(root); err != nil {
			return fmt.Errorf("enter %s: %w", programs.Debian13, err)
		}
	}
	if err := becomeUser(); err != nil {
		return err
	}
	// becomeUser asks for the end with a parent, which this node does not end with.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("clear parent-death signal: %w", err)
	}
	if err := os.Setenv("PATH", "/usr/local/bin:/usr/bin:/usr/sbin"); err != nil {
		return err
	}
	return node()
}

// bindRoot shows the unpacked packages at root.
func bindRoot(root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(programs.Debian13, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", programs.Debian13, err)
	}
	return nil
}

// shareMounts shows there what is the tests'.
func shareMounts(root string) error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// podman's locks are there, and another version's must not be in the same place.
	if err := unix.Mount("rig", root+"/dev/shm", "tmpfs", unix.MS_NOSUID, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// lendEtc puts a copy in the place of /etc there.
func lendEtc(root string) error {
	etc := runDir + "/etc-13"
	if out, err := exec.Command("cp", "-a", programs.Debian13+"/etc", etc).CombinedOutput(); err != nil {
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
	if err := os.Symlink(runDir+"/etc/resolv.conf", link); err != nil {
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

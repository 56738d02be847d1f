package rig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The ordinary user. It exists in the copy of /etc only.
const (
	userName = "usernet-test"
	userID   = 21042
	subID    = 300000 // the first of 65536
)

// usernetEnv tells the role enter where the binary under test is.
const usernetEnv = "USERNET_RIG_BINARY"

// enter turns this process, root in H and in a mount namespace of its own, into the ordinary user's process
// that runs the tests.
func enter(args []string) error {
	// Both may lie where the mounts below hide them.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	usernet, err := os.Open(os.Getenv(usernetEnv))
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		hideRun, copyEtc, func() error { return install(self, nodeExe) }, func() error { return install(usernet, Usernet) },
		mountTUN, mountCgroup, func() error { return startDebian13(3 + len(spaceNames)) }, becomeUser,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("prepare user %s: %w", userName, err)
		}
	}
	return fmt.Errorf("run tests: %w", unix.Exec(nodeExe, append([]string{os.Args[0]}, args...), userEnv()))
}

// userEnv is the environment of the tests.
func userEnv() []string {
	e := []string{insideEnv + "=1", "HOME=" + runDir + "/home", "TMPDIR=/tmp",
		"USER=" + userName, "LOGNAME=" + userName, "XDG_RUNTIME_DIR=" + runtimeDir()}
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		switch k {
		case "HOME", "TMPDIR", "USER", "LOGNAME", "XDG_RUNTIME_DIR", usernetEnv:
		default:
			e = append(e, kv)
		}
	}
	return e
}

func runtimeDir() string { return "/run/user/" + strconv.Itoa(userID) }

// hideRun gives the namespace a /run and a /tmp of its own, with the user's directories.
func hideRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for path, mode := range map[string]string{"/run": "mode=0755", "/tmp": "mode=1777"} {
		if err := unix.Mount("rig", path, "tmpfs", unix.MS_NOSUID, mode); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	for _, d := range []struct {
		path string
		uid  int
	}{{runDir, 0}, {"/run/user", 0}, {"/run/lock", 0}, {runDir + "/home", userID}, {runtimeDir(), userID}} {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return err
		}
		if d.uid == 0 {
			continue
		}
		if err := errors.Join(os.Chown(d.path, d.uid, d.uid), os.Chmod(d.path, 0o700)); err != nil {
			return err
		}
	}
	return nil
}

// copyEtc puts a copy in the place of /etc, with the user in it and a resolv.conf that names nobody. The
// directory is the user's, so that a test can replace resolv.conf by a rename.
func copyEtc() error {
	etc := runDir + "/etc"
	if out, err := exec.Command("cp", "-a", "/etc/.", etc+"/").CombinedOutput(); err != nil {
		return fmt.Errorf("copy /etc: %w\n%s", err, out)
	}
	id := strconv.Itoa(userID)
	for name, line := range map[string]string{
		"passwd": userName + ":x:" + id + ":" + id + "::" + runDir + "/home:/bin/sh\n",
		"group":  userName + ":x:" + id + ":\n",
		"subuid": fmt.Sprintf("%s:%d:65536\n", userName, subID),
		"subgid": fmt.Sprintf("%s:%d:65536\n", userName, subID),
	} {
		f, err := os.OpenFile(filepath.Join(etc, name), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	resolv := filepath.Join(etc, "resolv.conf")
	// It may be a link to somewhere in /run.
	if err := os.Remove(resolv); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(resolv, []byte("# nobody\n"), 0o644); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(resolv, userID, userID), os.Chown(etc, userID, userID)); err != nil {
		return err
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc: %w", err)
	}
	return nil
}

// install copies an executable.
func install(from *os.File, to string) error {
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// mountTUN makes /dev/net/tun usable for the user, in this namespace only.
func mountTUN() error {
	const path = "/dev/net/tun"
	node := runDir + "/tun"
	dev := int(unix.Mkdev(10, 200))
	if err := unix.Mknod(node, unix.S_IFCHR, dev); err != nil {
		return fmt.Errorf("make device %s: %w", node, err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll("/dev/net", 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(path, unix.S_IFCHR, dev); err != nil {
			return fmt.Errorf("make device %s: %w", path, err)
		}
	}
	if err := unix.Mount(node, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	if f, err := os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("%w; the kernel has no TUN: run \"modprobe tun\"", err)
	} else {
		return f.Close()
	}
}

// mountCgroup gives podman the cgroup2 that it insists on, where the machine has none in its usual place.
func mountCgroup() error {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return nil
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2: %w", err)
	}
	return nil
}

// becomeUser gives up root.
func becomeUser() error {
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(userID); err != nil {
		return fmt.Errorf("set gid: %w", err)
	}
	if err := syscall.Setuid(userID); err != nil {
		return fmt.Errorf("set uid: %w", err)
	}
	// Changing ids cleared it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set parent-death signal: %w", err)
	}
	return nil
}

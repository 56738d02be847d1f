package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// becomeUser is root's last step, in a mount namespace of its own: args are the user's uid and gid, and then those of
// the user's step. What podman needs of a machine is made in the namespace; where that cannot be, podman is not measured.
func becomeUser(args []string) error {
	runtime.LockOSThread() // namespaces belong to threads, and exec takes those of the thread that calls it
	dir := args[2]
	o, err := parseOptions(args[3:])
	if err != nil {
		return err
	}
	err = preparePodman(dir)
	if err == nil && o.wantsThrough() {
		err = startOther(args[0], args[1], dir, args[3:])
	}
	if err != nil {
		if err := os.WriteFile(podmanFailure(dir), []byte("prepare for podman: "+err.Error()), 0o644); err != nil {
			return err
		}
	}
	if err := takeIDs(args[0], args[1]); err != nil {
		return err
	}
	// Changing ids cleared it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("set parent-death signal: %w", err)
	}
	self := filepath.Join(dir, "bench")
	return fmt.Errorf("run %s: %w", self, syscall.Exec(self, append([]string{self, userRole}, args[2:]...), os.Environ()))
}

// preparePodman gives the user a cgroup2, which podman insists on, user ids for its containers, and a network like the
// rig's, since pasta copies what the host has.
func preparePodman(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := configureRig(); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); errors.Is(err, os.ErrNotExist) {
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := grantIDs(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return fmt.Errorf("grant user ids: %w", err)
		}
	}
	return nil
}

// grantIDs puts a copy in the place of file, in which benchUser has a range that nobody else has.
func grantIDs(file, copy string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	next, has := freeIDs(old, benchUser)
	if has {
		return nil
	}
	text := fmt.Sprintf("%s\n%s:%d:%d\n", bytes.TrimRight(old, "\n"), benchUser, next, idRange)
	if err := os.WriteFile(copy, []byte(text), 0o644); err != nil {
		return err
	}
	if old == nil { // a mount needs something to be mounted on
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return err
		}
	}
	return unix.Mount(copy, file, "", unix.MS_BIND, "")
}

const (
	firstID = 100000 // where useradd begins
	idRange = 65536  // as much as an image may use
)

// freeIDs reads subuid(5) and returns the first id above all that are given, or that user has some.
func freeIDs(text []byte, user string) (next int, has bool) {
	next = firstID
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		f := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err := errors.Join(err1, err2); err != nil {
			continue
		}
		has = has || f[0] == user
		next = max(next, first+count)
	}
	return next, has
}

// runAsUser is the user's step: it has podman set its containers up, starts the rig, and removes what podman made,
// also when it is asked to end.
func runAsUser(dir string, args []string) (err error) {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	os.Clearenv()
	for _, kv := range environment(dir) {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	if err := os.Mkdir(os.Getenv("XDG_RUNTIME_DIR"), 0o700); err != nil {
		return err
	}
	syscall.CloseOnExec(turnFD)
	syscall.CloseOnExec(doneFD)
	if o.wantsThrough() {
		if err := measureThrough(dir, o); err != nil {
			return err
		}
	}
	var pipes []*os.File
	if _, failed := os.Stat(podmanFailure(dir)); o.wantsPodman() && failed != nil {
		progress("podman")
		p, err := startPodman(dir)
		defer func() { err = errors.Join(err, p.stop()) }()
		if err == nil {
			pipes = p.pipes
		} else if err := os.WriteFile(podmanFailure(dir), []byte(err.Error()), 0o644); err != nil {
			return err
		}
	}
	return runInRig(ctx, dir, args, pipes)
}

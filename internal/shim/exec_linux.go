package shim

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Another command in a running sandbox.
//
// # Theory of operation
//
// The calling process becomes nsenter, nsenter becomes this binary again inside, and that becomes CMD: one
// process all the time, so that the terminal, signals and the exit code are CMD's own without anyone in between.
// (Where the sandbox has a process namespace, as a container of podman has, nsenter must fork to enter it
// and stands in between.) The step inside is there because CMD is to be found as the sandbox sees its files, and
// because only it can tell a CMD that is missing from one that cannot be executed.
//
// CMD is not a child of the sandbox's init. It ends by itself; without a network when the sandbox has ended.

// ExecConfig is a command to run in a sandbox.
type ExecConfig struct {
	// PID is a process in the sandbox.
	PID int
	// Command is CMD and its arguments.
	Command []string
	// Env is CMD's whole environment.
	Env []string
	// Dir is CMD's working directory, as the sandbox sees it; empty means that of PID.
	Dir string
	// Stdio are CMD's descriptors 0, 1 and 2.
	Stdio [3]*os.File `json:"-"`
	// Exe is the binary re-executed inside; empty means the running one.
	Exe string
}

// Exec replaces the calling process by CMD in the namespaces of a sandbox. It returns only when that fails; a CMD
// that cannot be run shows as exit code 126 or 127 of the process.
func Exec(cfg ExecConfig) error {
	d, err := openDonor(cfg.PID, unix.CLONE_NEWUSER|unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWNS|unix.CLONE_NEWPID)
	if err != nil {
		return err
	}
	defer d.close()
	nsenter, err := findTool("nsenter")
	if err != nil {
		return err
	}
	exe, err := openExe(cfg.Exe)
	if err != nil {
		return err
	}
	defer exe.Close()
	dir := cfg.Dir
	if dir == "" {
		if dir, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", d.pid)); err != nil {
			dir = "/"
		}
	}
	args := []string{"nsenter"}
	for _, n := range d.ns {
		args = append(args, fdArg(n.name, int(n.f.Fd())))
	}
	if d.has("user") {
		creds, err := d.credentials()
		if err != nil {
			return err
		}
		args = append(args, creds...)
	}
	args = append(append(args, "--", fdPath(int(exe.Fd())), ExecRole, dir), cfg.Command...)
	if err := leave(cfg.Stdio, append(d.handles(), exe)); err != nil {
		return err
	}
	err = syscall.Exec(nsenter, args, cfg.Env)
	return fmt.Errorf("run nsenter: %w", err)
}

// credentials are nsenter's options for the user namespace: whoever has a name in there stays who he is, any
// other becomes root.
func (d *donor) credentials() ([]string, error) {
	m, err := readMap(fmt.Sprintf("/proc/%d/uid_map", d.pid))
	if err != nil {
		return nil, fmt.Errorf("enter the namespaces of process %d: %w", d.pid, err)
	}
	uid := uint32(os.Geteuid())
	for _, e := range m {
		if uid >= e.outside && uid-e.outside < e.count {
			return []string{"--preserve-credentials"}, nil
		}
	}
	return nil, nil
}

// leave leaves the next program stdio as its descriptors 0, 1 and 2, and files where they are; all else is closed.
func leave(stdio [3]*os.File, files []*os.File) error {
	if err := CloseOnExec(); err != nil {
		return fmt.Errorf("mark inherited descriptors: %w", err)
	}
	// Copied before the first is overwritten: they may be each other's.
	var copies [3]int
	for i, f := range stdio {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("hand on descriptor %d: %w", i, err)
		}
		copies[i] = fd
	}
	for i, fd := range copies {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("hand on descriptor %d: %w", i, err)
		}
	}
	for _, f := range files {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand on %s: %w", f.Name(), err)
		}
	}
	return nil
}

// ExecInside is the step of Exec in the sandbox; args are the working directory and CMD. It returns the exit
// code when CMD cannot be run.
func ExecInside(args []string) int {
	err := execInside(args)
	fmt.Fprintln(os.Stderr, "usernet:", err)
	return ExitCode(err)
}

func execInside(args []string) error {
	if err := CloseOnExec(); err != nil {
		return fmt.Errorf("mark inherited descriptors: %w", err)
	}
	if len(args) < 2 {
		return notFound("", syscall.ENOENT)
	}
	if err := os.Chdir(args[0]); err != nil {
		return fmt.Errorf("use --workdir: %w", err)
	}
	path, err := lookPath(args[1], os.Getenv("PATH"))
	if err != nil {
		return err
	}
	return classify(path, syscall.Exec(path, args[1:], os.Environ()))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/usernet/usernet/rootless-tests/bench/report"
	"github.com/usernet/usernet/rootless-tests/programs"
)

// The hidden first words of the process started again; see the package comment.
const (
	rootRole    = "__root"
	userRole    = "__user"
	rigRole     = "__rig"
	measureRole = "__measure"
	agentRole   = "__agent"
)

const (
	// benchUser owns nothing and may do nothing: what is measured is what everybody gets.
	benchUser = "usernet-bench"
	// descriptors is what 10 000 idle connections need in a process that has two sockets for each, doubled.
	descriptors = 65536
	// resultFD is where the measuring process writes its result: the first of ExtraFiles.
	resultFD = 3
)

// start builds, becomes an ordinary user, and returns what the rest measured.
func start(o options, args []string) (*report.Result, error) {
	if err := programs.Provide(os.Stderr, programs.Bench); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "usernet-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// The user must reach the programs, and the module's own folder may be closed to it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := build(dir, o.usernet); err != nil {
		return nil, err
	}
	cmd, err := userStep(dir, args)
	if err != nil {
		return nil, err
	}
	return collect(cmd)
}

// userStep is what becomes the user's step: of root, who first has to become the user, or of a user.
func userStep(dir string, args []string) (*exec.Cmd, error) {
	// The user's step removes what podman made, and so is not killed but told to end: by the terminal, as all are, or
	// for whoever ended this process alone.
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // ends with the process
	words := []string{userRole, dir}
	if os.Geteuid() == 0 {
		uid, gid, err := ordinaryUser(dir)
		if err != nil {
			return nil, err
		}
		words = []string{rootRole, uid, gid, dir}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "bench"), append(words, args...)...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd, nil
}

// collect runs cmd and reads the result it writes to resultFD.
func collect(cmd *exec.Cmd) (*report.Result, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	result, readErr := report.Read(r)
	// Its own message stands above.
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	return result, readErr
}

// build puts the programs into dir: this one, the relay and usernet.
func build(dir, usernet string) error {
	// This one may be linked with C's libraries, which a container does not have.
	packages := map[string]string{
		"bench": "github.com/usernet/usernet/rootless-tests/bench", "relay": "github.com/usernet/usernet/rootless-tests/bench/relay",
	}
	if usernet != "" {
		if err := copyFile(filepath.Join(dir, "usernet"), usernet); err != nil {
			return err
		}
	} else {
		packages["usernet"] = "github.com/usernet/usernet/cmd/usernet"
	}
	for name, pkg := range packages {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w; run inside the module\n%s", name, err, out)
		}
	}
	return nil
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// ordinaryUser makes the user that root becomes, if there is none yet, gives it what it needs, and returns its ids.
func ordinaryUser(dir string) (uid, gid string, err error) {
	u, err := user.Lookup(benchUser)
	if err != nil {
		if out, err := exec.Command("useradd", "--system", "--no-create-home", "--shell", "/bin/sh", benchUser).CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("make user %s: %w\n%s", benchUser, err, out)
		}
		if u, err = user.Lookup(benchUser); err != nil {
			return "", "", err
		}
	}
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
		return "", "", fmt.Errorf("open /dev/net/tun to users: %w", err)
	}
	n, err := strconv.Atoi(u.Uid)
	if err != nil {
		return "", "", fmt.Errorf("read uid of %s: %w", benchUser, err)
	}
	if err := os.Chown(dir, n, -1); err != nil {
		return "", "", err
	}
	allowDescriptors()
	return u.Uid, u.Gid, nil
}

// allowDescriptors raises the hard limit of open files, which a user cannot. Root without CAP_SYS_RESOURCE
// cannot either; then idle connections go as far as they can, and the table says how far.
func allowDescriptors() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Max < descriptors {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: descriptors, Max: descriptors})
	}
}

// writeFile writes a file through write.
func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

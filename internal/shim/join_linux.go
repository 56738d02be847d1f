package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A sandbox in the network of another one (--network container:NAME).
//
// # Theory of operation
//
// Such a sandbox has the user, network and UTS namespaces of the other, and a mount namespace of its own, in which
// the files that belong to the network (hosts, resolv.conf, hostname) are copies of the other's. It makes no TAP
// and starts no Network. All else, from init to the exit code, is as in any sandbox.
//
// Entering a user namespace takes nsenter, and making a mount namespace in there takes unshare, since the rights
// for it end with the execution of a program by anyone but root of that namespace. So init is started as
//
//	nsenter --user --net --uts  unshare --mount  usernet __join CMD
//
// each of which becomes the next. Where the caller is nobody's root inside (--map keep), unshare makes a user
// namespace below the other's, too; CMD has no capabilities there as there are none in the other sandbox.
//
// Which way works is seen by trying: init says "entered" first of all. What the programs before it write to
// standard error is kept until then, and is the error when no way worked.

// Target is a process in a sandbox.
type Target struct {
	PID int
}

// Descriptors of an init that joins; the namespaces come after them.
const (
	joinSocket = 3 + iota
	joinExe
	joinStderr
	joinNamespaces
)

// donorFiles are those that Docker shares with the network, too.
var donorFiles = []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}

// joinWays are the options of nsenter and of unshare.
var joinWays = []struct {
	enter, unshare []string
	inUser         bool // enter a user namespace
}{
	{enter: []string{"--preserve-credentials"}, inUser: true}, // root of it already
	{inUser: true}, // becomes root of it
	{enter: []string{"--preserve-credentials"}, unshare: []string{"--user", "--map-current-user", "--keep-caps"}},
}

// join starts init in the namespaces of cfg.Join.
func join(ctx context.Context, cfg *Config) (*os.Process, *conn, error) {
	if err := CloseOnExec(); err != nil {
		return nil, nil, fmt.Errorf("mark inherited descriptors: %w", err)
	}
	d, err := openDonor(cfg.Join.PID, unix.CLONE_NEWUSER|unix.CLONE_NEWNET|unix.CLONE_NEWUTS)
	if err != nil {
		return nil, nil, err
	}
	defer d.close()
	if cfg.Files, err = d.files(donorFiles...); err != nil {
		return nil, nil, fmt.Errorf("read the files of process %d: %w", d.pid, err)
	}
	var first error
	for _, w := range joinWays {
		if w.inUser && !d.has("user") {
			continue // ours; a user namespace of its own still tells what is the sandbox's
		}
		p, c, err := startJoined(ctx, cfg, d, w.enter, w.unshare)
		if err == nil {
			return p, c, nil
		}
		if first == nil {
			first = err
		}
		if d.alive() != nil || ctx.Err() != nil {
			break
		}
	}
	return nil, nil, fmt.Errorf("enter the namespaces of process %d: %w", d.pid, first)
}

// startJoined starts init one way, and waits until it is there.
func startJoined(ctx context.Context, cfg *Config, d *donor, enter, unshare []string) (_ *os.Process, _ *conn, err error) {
	nsenter, err := findTool("nsenter")
	if err != nil {
		return nil, nil, err
	}
	unsharer, err := findTool("unshare")
	if err != nil {
		return nil, nil, err
	}
	exe, err := openExe(cfg.Exe)
	if err != nil {
		return nil, nil, err
	}
	defer exe.Close()
	c, its, err := socket()
	if err != nil {
		return nil, nil, err
	}
	defer its.Close()
	read, write, err := os.Pipe()
	if err != nil {
		c.close()
		return nil, nil, err
	}
	defer read.Close()
	defer write.Close()
	args := append([]string{"nsenter"}, enter...)
	for i, n := range d.ns {
		args = append(args, fdArg(n.name, joinNamespaces+i))
	}
	args = append(append(append(args, "--", unsharer, "--mount"), unshare...), "--", fdPath(joinExe), JoinRole)
	p, err := os.StartProcess(nsenter, append(args, cfg.Command...), &os.ProcAttr{
		Env:   cfg.Env,
		Files: append([]*os.File{cfg.Stdio[0], cfg.Stdio[1], write, its, exe, cfg.Stdio[2]}, d.handles()...),
	})
	if err != nil {
		c.close()
		return nil, nil, startError(cfg, err)
	}
	its.Close()
	write.Close()
	defer context.AfterFunc(ctx, func() { _ = p.Kill() })()
	if _, err = c.expect(kindEntered); err == nil {
		return p, c, nil
	}
	c.close()
	said, _ := io.ReadAll(io.LimitReader(read, 4096))
	_ = p.Kill()
	_, _ = p.Wait()
	if s := strings.TrimSpace(string(said)); s != "" {
		err = errors.New(s)
	}
	return nil, nil, err
}

// InitJoined is Init for a sandbox that joins another one's namespaces.
func InitJoined(command []string) int {
	// What was written before this was for the shim, which has another end of the pipe.
	if err := unix.Dup3(joinStderr, 2, 0); err != nil {
		return ExitFailure
	}
	if err := CloseOnExec(); err != nil {
		fmt.Fprintf(os.Stderr, "usernet: %s: mark inherited descriptors: %v\n", JoinRole, err)
		return ExitFailure
	}
	return initMain(command, true)
}

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/rootless-tests/programs"
)

// Debian13 is a node in H whose commands see the files of another Debian (programs.Enter), as the ordinary user.

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
	if err := programs.Enter(runDir, runDir+"/etc/resolv.conf"); err != nil {
		return err
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

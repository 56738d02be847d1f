// Package shimtest runs tests that make sandboxes on the real kernel as what makes them in life: an ordinary
// user.
package shimtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/usernet/usernet/internal/proctest"
)

// UID is the user. It has no entry in passwd; nothing but --map auto needs one.
const UID = 64321

// Main runs the tests, m is the *testing.M, by a second process when this one is root's. It returns the exit code.
func Main(m interface{ Run() int }) int {
	proctest.LeaveAtOnce()
	if os.Geteuid() != 0 || fuzzing() {
		return m.Run()
	}
	if err := asUser(); err != nil {
		fmt.Fprintf(os.Stderr, "as user %d: %v\n", UID, err)
		return 1
	}
	return 0
}

// fuzzing reports whether this is the fuzzer or a worker of it. Its files are those of whoever started it.
func fuzzing() bool {
	return slices.ContainsFunc(os.Args, func(a string) bool {
		return strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker")
	})
}

// asUser makes the TAP usable, as an administrator would, and runs the tests again without root.
func asUser() error {
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "usernet-test")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, UID, UID); err != nil {
		return err
	}
	// go test has put the binary where only root may look.
	exe := filepath.Join(dir, filepath.Base(os.Args[0]))
	if err := copyFile(exe, "/proc/self/exe"); err != nil {
		return err
	}
	args := slices.DeleteFunc(os.Args, func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile") // in a directory of root's
	})
	cmd := exec.Command(exe, args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: UID, Gid: UID}, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

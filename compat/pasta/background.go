package pasta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// In the background.
//
// A program of several threads cannot fork. So the process that was started runs the same command line once more, in a
// session of its own, and waits until that one says that all works, or ends; it ends with its code. Until then the
// second process has our standard error, for what goes wrong; after that it keeps nothing of its caller's open, who
// may be reading to the end.

// readyEnv tells the second process which descriptor to say it on.
const readyEnv = "USERNET_PASTA_READY_FD"

// readyMark is what it says.
const readyMark = "1"

// background starts the second process and returns the exit code of the first.
func background(args, env []string, stdio [3]*os.File) int {
	code, err := startBackground(args, env, stdio)
	if err != nil {
		fmt.Fprintln(stdio[2], err)
	}
	return code
}

func startBackground(args, env []string, stdio [3]*os.File) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return exitFailure, fmt.Errorf("Failed to go to background: %w", err)
	}
	defer r.Close()
	const firstExtra = 3
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = args
	cmd.Env = append(env[:len(env):len(env)], readyEnv+"="+strconv.Itoa(firstExtra))
	cmd.Stderr, cmd.ExtraFiles = stdio[2], []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return exitFailure, fmt.Errorf("Failed to go to background: %w", err)
	}
	mark, err := io.ReadAll(io.LimitReader(r, int64(len(readyMark))))
	if string(mark) == readyMark {
		return 0, nil
	}
	// It has said why, and it ends; what matters is its code.
	err = errors.Join(err, cmd.Wait())
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && exit.ExitCode() != 0 {
		return exit.ExitCode(), nil
	}
	return exitFailure, fmt.Errorf("Failed to go to background: %w", err)
}

// inheritedReady takes over the descriptor of a second process; nil in any other. The environment that is left has
// no trace of it.
func inheritedReady(env []string) (*os.File, []string, error) {
	var ready *os.File
	var rest []string
	for _, e := range env {
		value, ok := strings.CutPrefix(e, readyEnv+"=")
		if !ok {
			rest = append(rest, e)
			continue
		}
		fd, err := strconv.Atoi(value)
		var st syscall.Stat_t
		if err != nil || fd < 3 || syscall.Fstat(fd, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			return nil, nil, fmt.Errorf("%s=%s: it is set by usernet for itself", readyEnv, value)
		}
		syscall.CloseOnExec(fd)
		ready = os.NewFile(uintptr(fd), "ready")
	}
	return ready, rest, nil
}

// detach says that all works and lets go of what our caller gave us.
func (r *runner) detach() error {
	if err := r.writePID(); err != nil {
		return err
	}
	if r.ready == nil {
		return nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := dup(int(null.Fd()), fd); err != nil {
			return fmt.Errorf("Failed to go to background: %w", err)
		}
	}
	// Whoever wants to unmount what we were started in can.
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("Failed to go to background: %w", err)
	}
	_, err = r.ready.WriteString(readyMark)
	if err = errors.Join(err, r.ready.Close()); errors.Is(err, syscall.EPIPE) {
		return nil // whoever started us has gone; we go on
	}
	return err
}

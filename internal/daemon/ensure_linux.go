package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a daemon is started on demand. Who needs one connects; when nobody answers it takes the start lock,
// looks again, and starts `usernet daemon` with a pipe. That process starts another in a session of its own and
// ends, so that the daemon is nobody's child and whoever started it need not wait for its end. The daemon
// writes one line to the pipe: `ready`, or why it cannot. Then the lock is free, and whoever waited for it
// finds the daemon (two callers at once start one).

const (
	// pipeVariable and detachVariable tell a daemon that it was started on demand: the pipe's descriptor, and whether
	// it is the process that ends.
	pipeVariable   = "USERNET_DAEMON_PIPE"
	detachVariable = "USERNET_DAEMON_DETACH"

	readyLine = "ready"
	// busyLine says that another daemon is there, or just ending.
	busyLine = "busy"

	// startTimeout bounds Ensure.
	startTimeout = 30 * time.Second
	// retryPause is between looks at a daemon that is starting or ending.
	retryPause = 50 * time.Millisecond
	// maxAnswer bounds what is read of the pipe.
	maxAnswer = 8 << 10
)

// Start says how Ensure starts a daemon.
type Start struct {
	// Paths are where it will be; the zero Paths means FindPaths.
	Paths Paths
	// Exe is the binary; empty means the running one. Args are its arguments; nil means daemon --idle-timeout 5m.
	Exe  string
	Args []string
}

// Ensure returns when the user's daemon answers, and starts one if none does.
func Ensure(ctx context.Context, s Start) (err error) {
	if s.Paths == (Paths{}) {
		if s.Paths, err = FindPaths(); err != nil {
			return err
		}
	}
	if answers(ctx, s.Paths) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	f, err := os.OpenFile(s.Paths.startLock(), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer f.Close()
	for {
		switch err := tryLock(f); {
		case err == nil:
			again, err := s.startOnce(ctx)
			if !again {
				return err
			}
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("start daemon: lock %s: %w", f.Name(), err)
		case answers(ctx, s.Paths):
			return nil
		}
		timer := time.NewTimer(retryPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("start daemon: %w; see %s", context.Cause(ctx), s.Paths.Log())
		}
	}
}

// answers reports whether a daemon listens.
func answers(ctx context.Context, p Paths) bool {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Socket())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// startOnce starts a daemon unless one answers. again says that one is there that does not answer yet, or
// no more.
func (s Start) startOnce(ctx context.Context) (again bool, err error) {
	if answers(ctx, s.Paths) {
		return false, nil
	}
	answer, err := s.spawn(ctx)
	switch {
	case err != nil:
		return false, fmt.Errorf("start daemon: %w", err)
	case answer == readyLine:
		return false, nil
	case answer == busyLine:
		return true, nil
	case ctx.Err() != nil:
		return false, fmt.Errorf("start daemon: it is not ready yet: %w; see %s", context.Cause(ctx), s.Paths.Log())
	case answer == "":
		answer = lastLine(s.Paths.Log())
	}
	// What it does not come to is told as we tell it.
	return false, fmt.Errorf("start daemon: %s; see %s", strings.TrimPrefix(answer, "start daemon: "), s.Paths.Log())
}

// spawn starts the process and returns what it, or the daemon it starts, says.
func (s Start) spawn(ctx context.Context) (string, error) {
	exe, args := s.Exe, s.Args
	if exe == "" {
		exe = "/proc/self/exe"
	}
	if args == nil {
		args = []string{"daemon", "--idle-timeout", "5m"}
	}
	log, err := openLog(s.Paths.Log())
	if err != nil {
		return "", err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(exe, args...)
	cmd.Args[0] = "usernet"
	cmd.Dir = "/"
	cmd.Env = append(environment(os.Environ()), pipeVariable+"=3", detachVariable+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	b, _ := io.ReadAll(io.LimitReader(r, maxAnswer)) // its end, or the end of time
	if err := cmd.Wait(); err != nil && len(b) == 0 && ctx.Err() == nil && lastLine(s.Paths.Log()) == "" {
		return "", err
	}
	return withoutPID(string(b)), nil
}

// withoutPID takes the line of the process in between out of an answer, and adopts the daemon that it names.
func withoutPID(answer string) string {
	var rest []string
	for line := range strings.Lines(answer) {
		if s, ok := strings.CutPrefix(line, pidLine); ok {
			if pid, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && pid > 0 {
				adopt(pid)
				continue
			}
		}
		rest = append(rest, line)
	}
	return strings.TrimSpace(strings.Join(rest, ""))
}

// environment is what a daemon gets of the environment of a command that happened to need one.
func environment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		switch k {
		case "HOME", "PATH", "USER", "LOGNAME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "GODEBUG", "GORACE", "GOCOVERDIR":
			return false
		}
		return !strings.HasPrefix(k, "USERNET_") && !strings.HasPrefix(k, "LC_") && k != "LANG"
	})
}

// openLog opens the log of a daemon that is started on demand; the daemon keeps it short (logFile).
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open its log: %w", err)
	}
	return f, nil
}

// lastLine is the last line of a log, for people who would look there next.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > maxAnswer {
		_, _ = f.Seek(-maxAnswer, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, maxAnswer))
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return string(lines[len(lines)-1])
}

// starter is whoever started this daemon on demand and waits at the pipe; nil when nobody did.
type starter struct{ pipe *os.File }

// fromStarter finds out whether the process was started on demand. The first of the two processes starts the second and
// has nothing else to do: detached says so.
func fromStarter() (s *starter, detached bool, err error) {
	fd, err := strconv.Atoi(os.Getenv(pipeVariable))
	if err != nil {
		return nil, false, nil
	}
	detach := os.Getenv(detachVariable) != ""
	os.Unsetenv(pipeVariable)
	os.Unsetenv(detachVariable)
	var st unix.Stat_t
	if fd < 3 || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, false, fmt.Errorf("start daemon: %s=%d is not a pipe; it is not for people to set", pipeVariable, fd)
	}
	syscall.CloseOnExec(fd)
	s = &starter{os.NewFile(uintptr(fd), "pipe of the starter")}
	if !detach {
		return s, false, nil
	}
	defer s.pipe.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.Env = append(os.Environ(), pipeVariable+"=3")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{s.pipe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, false, fmt.Errorf("start daemon: %w", err)
	}
	_, _ = fmt.Fprintf(s.pipe, "%s%d\n", pidLine, cmd.Process.Pid) // the starter may have given up
	return nil, true, cmd.Process.Release()
}

// ready lets the starter go.
func (s *starter) ready() { s.say(readyLine) }

// failed tells the starter why there is no daemon; without an error, or after ready, it says nothing.
func (s *starter) failed(err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrRunning):
		s.say(busyLine)
	default:
		s.say(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

func (s *starter) say(line string) {
	if s == nil || s.pipe == nil {
		return
	}
	_, _ = io.WriteString(s.pipe, line+"\n") // it may have given up
	s.pipe.Close()
	s.pipe = nil
}

// monotonic is the clock that systemd compares a reload with, in microseconds.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano() / 1000
}

package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/shim/shimtest"
)

// The tests run on the real kernel as an ordinary user. The test binary is also every other program they
// need: init and helper of the package, the shim, a shell with job control.

// shimRole runs a sandbox described by the next argument.
const shimRole = "test-shim"

// attachRole attaches to what the next argument describes.
const attachRole = "test-attach"

// execTestRole runs a command in a sandbox as the next argument describes.
const execTestRole = "test-exec"

// listenRole listens at an address, says "ready" and greets who comes; dialRole is one.
const (
	listenRole = "test-listen"
	dialRole   = "test-dial"
)

// shellRole is a session leader that runs the rest of its arguments as a job.
const shellRole = "test-shell"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitRole:
			os.Exit(Init(os.Args[2:]))
		case JoinRole:
			os.Exit(InitJoined(os.Args[2:]))
		case ExecRole:
			os.Exit(ExecInside(os.Args[2:]))
		case TapRole:
			os.Exit(Tap())
		case shimRole:
			os.Exit(shimMain(os.Args[2]))
		case attachRole:
			os.Exit(attachMain(os.Args[2]))
		case execTestRole:
			os.Exit(execMain(os.Args[2]))
		case listenRole:
			os.Exit(listenMain(os.Args[2]))
		case dialRole:
			os.Exit(dialMain(os.Args[2]))
		case shellRole:
			os.Exit(shellMain(os.Args[2:]))
		}
	}
	os.Exit(shimtest.Main(m))
}

// testConfig is the part of Config that tests vary.
type testConfig struct {
	Command  []string
	Map      IDMap
	Network  NetworkMode
	Dir      string
	Hostname string
	Files    []plumb.File
	Join     *Target
	// FailStart and FailAttach make the network fail.
	FailStart, FailAttach string
	// NetworkLog is a file that notes what the shim does with the network.
	NetworkLog string
}

func shimMain(arg string) int {
	var tc testConfig
	if err := json.Unmarshal([]byte(arg), &tc); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	cfg := Config{
		Command: tc.Command, Env: os.Environ(), Map: tc.Map, Network: tc.Network, Dir: tc.Dir,
		Hostname: tc.Hostname, Files: tc.Files, Join: tc.Join,
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
	}
	if cfg.Map == "" {
		cfg.Map = MapRoot
	}
	if cfg.Network == "" {
		cfg.Network = NetworkNone
	}
	if cfg.Network == NetworkPrivate {
		cfg.Links, cfg.Routes = []plumb.Link{testLink}, testRoutes
		cfg.Start = func(ctx context.Context, _ int) (Network, error) {
			if tc.FailStart == "wait" {
				fmt.Println("starting")
				<-ctx.Done()
				return nil, ctx.Err()
			}
			if tc.FailStart != "" {
				return nil, fmt.Errorf("%s", tc.FailStart)
			}
			return newFakeNetwork(tc.FailAttach, tc.NetworkLog), nil
		}
	}
	code, err := Run(context.Background(), cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "shim: %v\n", err)
	}
	return code
}

func attachMain(arg string) int {
	var cfg AttachConfig
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	cfg.Links, cfg.Routes = []plumb.Link{testLink}, testRoutes
	cfg.Ready = os.NewFile(3, "ready")
	cfg.Start = func(context.Context, int) (Network, error) { return newFakeNetwork("", ""), nil }
	if err := Attach(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitCode(err)
	}
	return 0
}

func execMain(arg string) int {
	var cfg ExecConfig
	if err := json.Unmarshal([]byte(arg), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	cfg.Stdio = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	err := Exec(cfg)
	fmt.Fprintln(os.Stderr, err)
	return ExitCode(err)
}

func listenMain(addr string) int {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		fmt.Fprintln(c, "hello")
		c.Close()
	}
}

func dialMain(addr string) int {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_, err = io.Copy(os.Stdout, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var testLink = plumb.Link{
	EndpointID: "ep0", Name: "eth0", MTU: 1500, Addr4: prefix("10.0.2.100/24"), Addr6: prefix("fd00::100/64"),
}

var testRoutes = plumb.Routes{
	Default4: plumb.Hop{Dev: "eth0", Addr: netip.MustParseAddr("10.0.2.2")},
	Default6: plumb.Hop{Dev: "eth0", Addr: netip.MustParseAddr("fd00::2")},
}

// shellMain runs a job as an interactive shell does: in the foreground, and says when it stops. A line
// on standard input resumes it.
func shellMain(args []string) int {
	// Else the kernel would stop us when we take the terminal back.
	signal.Ignore(syscall.SIGTTOU)
	attr := &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: os.Environ(),
		Sys: &syscall.SysProcAttr{Foreground: true, Ctty: 0},
	}
	p, err := os.StartProcess("/proc/self/exe", append([]string{os.Args[0]}, args...), attr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for {
		var ws syscall.WaitStatus
		_, err := syscall.Wait4(p.Pid, &ws, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fmt.Println(err)
			return 1
		case ws.Stopped():
			// As a shell does: the terminal is ours, the user types fg, the terminal is the job's.
			_ = unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
			fmt.Printf("job stopped %d\n", ws.StopSignal())
			readLine(os.Stdin)
			_ = unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, p.Pid)
			_ = syscall.Kill(-p.Pid, syscall.SIGCONT)
		case ws.Exited():
			fmt.Printf("job exited %d\n", ws.ExitStatus())
			return 0
		default:
			fmt.Printf("job ended by %d\n", ws.Signal())
			return 0
		}
	}
}

func readLine(r io.Reader) {
	b := []byte{0}
	for b[0] != '\n' {
		if n, err := r.Read(b); n == 0 && err != nil {
			return
		}
	}
}

// shim is a started sandbox.
type shim struct {
	*exec.Cmd
	t      *testing.T
	out    *os.File // its standard output
	stderr bytes.Buffer
	asker
}

// start runs a sandbox; the test ends it when it has not ended.
func start(t *testing.T, tc testConfig) *shim {
	t.Helper()
	return startWith(t, tc, "")
}

// startWith runs the shim by a script that executes its arguments.
func startWith(t *testing.T, tc testConfig, script string) *shim {
	t.Helper()
	b, err := json.Marshal(tc)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{self(t), shimRole, string(b)}
	if script != "" {
		args = append([]string{"/bin/sh", "-c", script, "sh"}, args...)
	}
	s := &shim{Cmd: exec.Command(args[0], args[1:]...), t: t, out: r}
	s.Stdout, s.Stderr = w, &s.stderr
	its := s.asker.open(t, 3)
	defer its.Close()
	s.ExtraFiles = []*os.File{its}
	s.Env = append(os.Environ(), changesEnv+"=3")
	// What CMD leaves behind may hold standard error.
	s.WaitDelay = 10 * time.Second
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = s.Process.Kill()
		_ = s.Wait()
		r.Close()
	})
	return s
}

// self is the path of this binary.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// exec1 starts a process that ends with the test.
func exec1(t *testing.T, args ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// line waits for a line that has want in it, and returns it.
func (s *shim) line(want string) string {
	s.t.Helper()
	return lineFrom(s.t, s.out, want)
}

func lineFrom(t *testing.T, f *os.File, want string) string {
	t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(20 * time.Second))
	var all, line strings.Builder
	b := []byte{0}
	for {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("%q did not come: %v; read:\n%s", want, err, all.String())
		}
		all.Write(b)
		if b[0] != '\n' {
			line.Write(b)
			continue
		}
		if strings.Contains(line.String(), want) {
			return strings.TrimRight(line.String(), "\r")
		}
		line.Reset()
	}
}

// code waits for the end and returns the exit code; one that a signal ended has -signal.
func (s *shim) code() int {
	s.t.Helper()
	_ = s.Wait()
	ws := s.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return -int(ws.Signal())
	}
	return ws.ExitStatus()
}

// run runs a sandbox to its end.
func run(t *testing.T, tc testConfig) (code int, stdout, stderr string) {
	t.Helper()
	s := start(t, tc)
	out, err := io.ReadAll(s.out)
	if err != nil {
		t.Fatal(err)
	}
	return s.code(), string(out), s.stderr.String()
}

// sh is a command of the shell.
func sh(script string) []string { return []string{"/bin/sh", "-c", script} }

package datapath

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

const (
	datapathRole = "__datapath"
	parentRole   = "__parent"
)

// TestMain is also the processes under test: a datapath with the fake Backend, and a control that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case datapathRole:
			os.Exit(Main(os.Args[2:], func(log *slog.Logger) Host { return newFakeHost(log) }))
		case parentRole:
			p, err := Start(testConfig(nil))
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println(p.PID())
			<-p.Done()
			os.Exit(0)
		}
	}
	proctest.LeaveAtOnce()
	os.Exit(m.Run())
}

func testConfig(stderr *os.File) Config {
	return Config{Args: []string{"usernet", datapathRole}, Stderr: stderr, Level: slog.LevelDebug, KillOnDenied: true}
}

// start starts a datapath that is killed at the end of the test at the latest. Its log is in the file.
func start(t *testing.T) (*Process, *os.File) {
	t.Helper()
	log := tempFile(t)
	p, err := Start(testConfig(log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, log
}

func contents(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The real process, dying of any call outside the allow-list, serves and ends in order.
func TestProcessServes(t *testing.T) {
	p, log := start(t)
	h, err := p.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if off := h.Confine.Weakened(); len(off) > 0 && !strings.Contains(off[0], "race") {
		t.Errorf("layers off: %q", off)
	}
	if err := p.Do(t.Context(), AddNetwork(spec.Network{ID: "n"}, nil)); err != nil {
		t.Fatal(err)
	}
	f := tempFile(t)
	if err := p.Do(t.Context(), Attach("n", spec.Endpoint{ID: "e"}, f, tap.Info{})); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, f); got != "attached" {
		t.Errorf("the datapath wrote %q into the file it was given", got)
	}
	if err := p.Close(); err != nil {
		t.Errorf("close: %v\n%s", err, contents(t, log))
	}
	if err := p.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	if err := p.Do(t.Context(), AddNetwork(spec.Network{ID: "n"}, nil)); !errors.Is(err, ErrGone) {
		t.Errorf("request to an ended process: %v", err)
	}
}

// Ctrl-C at the terminal reaches the command, not the datapath: it has a session of its own.
func TestProcessHasItsOwnSession(t *testing.T) {
	p, _ := start(t)
	if sid, err := unix.Getsid(p.PID()); err != nil || sid != p.PID() {
		t.Errorf("session %d, %v; want its own, %d", sid, err, p.PID())
	}
}

// FT-25: a panic in any goroutine ends the process, is seen at once, and its cause is in the log.
func TestPanicEndsProcess(t *testing.T) {
	p, log := start(t)
	if err := p.Do(t.Context(), AddNetwork(spec.Network{ID: "n"}, nil)); err != nil {
		t.Fatal(err)
	}
	if err := p.Do(t.Context(), Attach("n", spec.Endpoint{ID: "panic"}, tempFile(t), tap.Info{})); !errors.Is(err, ErrGone) {
		t.Errorf("attach: %v, want %v", err, ErrGone)
	}
	<-p.Done()
	if p.Err() == nil {
		t.Error("the process ended well")
	}
	if got := contents(t, log); !strings.Contains(got, "the packet that caused it") {
		t.Errorf("the log does not say why: %s", got)
	}
}

// A process that hangs in a request is killed by Close.
func TestCloseKillsHungProcess(t *testing.T) {
	p, _ := start(t)
	if err := p.Do(t.Context(), AddNetwork(spec.Network{ID: "n"}, nil)); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	attached := make(chan error)
	go func() { attached <- p.Do(t.Context(), Attach("n", spec.Endpoint{ID: "hang"}, w, tap.Info{})) }()
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err == nil {
		t.Error("close: no error, although it was killed")
	}
	<-p.Done()
	if err := <-attached; !errors.Is(err, ErrGone) {
		t.Errorf("attach: %v", err)
	}
}

// A control killed with -9 leaves no datapath behind.
func TestProcessEndsWithItsParent(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", parentRole)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd.Process.Kill()
	cmd.Wait()
	// A pidfd is readable when its process has ended.
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(10*time.Second/time.Millisecond)); n != 1 || err != nil {
		t.Errorf("the datapath lives on: %d, %v", n, err)
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	_, err := Start(Config{Exe: "/nonexistent/usernet", Args: []string{"usernet"}})
	if !errors.Is(err, syscall.ENOENT) || !strings.HasPrefix(err.Error(), "start datapath: ") {
		t.Errorf("start: %v", err)
	}
}

// No descriptor is left after a process's life, killed or closed.
func TestProcessLeavesNoDescriptor(t *testing.T) {
	cycle := func() {
		p, _ := start(t)
		if _, err := p.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.Close()
		q, _ := start(t)
		q.Kill()
	}
	cycle()
	before := openFiles(t)
	for range 3 {
		cycle()
	}
	goleak.VerifyNone(t)
	// Each start has a log file that lives as long as the test.
	if after := openFiles(t) - 6; after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// A role started by hand says so instead of hanging.
func TestMainWithoutSocket(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", datapathRole)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "not by hand") {
		t.Errorf("%v: %s", err, out.String())
	}
}

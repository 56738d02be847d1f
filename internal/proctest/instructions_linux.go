package proctest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// # Theory of operation
//
// How many instructions a piece of code takes says what it costs, and unlike time it is the same on a busy machine.
// A processor counts them, but seldom does one inside a virtual machine. So they are counted by stepping: the
// test is run once more in a process that this one traces with ptrace(2), and that is stopped after each instruction.
//
// Of that process only the thread that counts goes on, all others stand still meanwhile, so neither the collector nor
// the scheduler's monitor gets a word in, and the number is the same every time. The code counted must therefore not
// wait for another goroutine. Nor may it read the clock: the kernel lets a process read it anew when a tick came in
// between, which at this pace can be every time. A system call is one instruction.
//
// The thread marks the beginning and the end by sending itself a signal, which stops it and which it never gets. What
// the marks themselves take is counted too, around nothing, and taken off.
//
// A thread may be stopped while it holds what the counting one needs to come out of its last system call, a lock of the
// scheduler say. Then there is no first mark, and all begins anew with another process.

// countEnv names the test that counts.
const countEnv = "USERNET_TEST_INSTRUCTIONS"

const (
	markSignal = unix.SIGUSR2
	// warmUps fill pools and caches.
	warmUps = 64
	// countRounds is how often it is counted; the least holds.
	countRounds = 2
	// startPatience is for the first mark, on a machine that has other things to do.
	startPatience = 20 * time.Second
	// starts is how often a process may be stopped at a bad moment.
	starts = 5
	// countPatience is for ten thousand steps on a machine that has other things to do: 10 µs each, and 2 ms beside many.
	countPatience = 4 * time.Minute
)

// The descriptors of the process that counts: where it says its thread, and what it waits for then.
const (
	threadFD = 3
	goFD     = 4
)

// Instructions is how many instructions once takes when it is called again and again; it waits for nobody and reads no
// clock. The test up to this call is run once more, in another process; a test counts once. Some thousand take a tenth
// of a second, on a busy machine ten.
func Instructions(tb testing.TB, once func()) int {
	tb.Helper()
	if os.Getenv(countEnv) == tb.Name() {
		count(once)
	}
	n, err := traceCount(tb.Name())
	for range starts - 1 {
		if !errors.Is(err, errStuck) {
			break
		}
		tb.Log(err)
		n, err = traceCount(tb.Name())
	}
	if err != nil {
		tb.Fatalf("count instructions: %v", err)
	}
	tb.Logf("%d instructions", n)
	return n
}

// errStuck is of a process that was stopped at a bad moment.
var errStuck = errors.New("the thread did not go on alone")

// count runs once between marks, for whoever traces this process, until that one ends it.
func count(once func()) {
	debug.SetGCPercent(-1)
	for range warmUps {
		once()
	}
	runtime.LockOSThread()
	// The end of a process's first thread is not told before that of the others, so it must not be the one that is
	// waited for. This goroutine keeps it.
	if unix.Gettid() == unix.Getpid() {
		go countHere(once)
		select {}
	}
	countHere(once)
}

// countHere is count on the thread that it is called on, or gets.
func countHere(once func()) {
	runtime.LockOSThread()
	pid, tid := unix.Getpid(), unix.Gettid()
	mark := func() { _, _, _ = unix.RawSyscall(unix.SYS_TGKILL, uintptr(pid), uintptr(tid), uintptr(markSignal)) }
	// Raw calls, as package os would hand this thread's turn to another one.
	word := strconv.AppendInt(nil, int64(tid), 10)
	_, _ = unix.Write(threadFD, word)
	_, _ = unix.Read(goFD, make([]byte, 1))
	mark() // it goes on
	for {
		mark()
		mark()
		mark()
		once()
		mark()
	}
}

// traceCount runs the test named once more and steps through what is between its marks.
func traceCount(test string) (int, error) {
	// Only the thread that attaches may step.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	said, saidW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer said.Close()
	start, startW, err := os.Pipe()
	if err != nil {
		saidW.Close()
		return 0, err
	}
	defer startW.Close()
	var pattern []string
	for part := range strings.SplitSeq(test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	var out Output
	cmd := exec.Command("/proc/self/exe", "-test.run="+strings.Join(pattern, "/"), "-test.timeout=10m")
	cmd.Env = append(os.Environ(), countEnv+"="+test, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, []*os.File{saidW, start}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	saidW.Close()
	start.Close()
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	defer time.AfterFunc(countPatience, func() { _ = cmd.Process.Kill() }).Stop()
	word := make([]byte, 16)
	n, _ := said.Read(word)
	tid, err := strconv.Atoi(string(word[:n]))
	if err != nil {
		return 0, fmt.Errorf("the test ended before it: %s", out.String())
	}
	frozen, err := freeze(cmd.Process.Pid)
	// Its first thread has ended, for whoever waits for it, when the others have, for whoever traces them.
	defer frozen.reap(cmd)
	if err != nil {
		return 0, err
	}
	if _, err := startW.Write([]byte{0}); err != nil {
		return 0, err
	}
	s := stepper(tid)
	late := time.AfterFunc(startPatience, func() { _ = cmd.Process.Kill() })
	if err := s.toMark(); err != nil {
		return 0, fmt.Errorf("%w: %w; %s", errStuck, err, out.String())
	}
	late.Stop()
	least, err := s.least()
	if err != nil {
		return 0, fmt.Errorf("%w; does the code wait for another goroutine? %s", err, out.String())
	}
	return least, nil
}

// threads are those that are traced.
type threads map[int]bool

// reap ends a process and all its threads but the first.
func (t threads) reap(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	for tid := range t {
		for tid != cmd.Process.Pid {
			if _, err := stepper(tid).wait(); err != nil {
				break
			}
		}
	}
}

// freeze attaches to all threads of a process and stops them.
func freeze(pid int) (threads, error) {
	frozen := threads{}
	// A thread that is not stopped yet may make another one.
	for before := -1; before != len(frozen); {
		before = len(frozen)
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return frozen, err
		}
		for _, name := range names {
			tid, err := strconv.Atoi(filepath.Base(name))
			if err != nil || frozen[tid] {
				continue
			}
			if err := unix.PtraceSeize(tid); err == unix.ESRCH {
				continue // it has ended
			} else if err != nil {
				return frozen, fmt.Errorf("trace a process of the test's own: %w; is ptrace forbidden here?", err)
			}
			if err := unix.PtraceInterrupt(tid); err != nil {
				return frozen, fmt.Errorf("stop a thread: %w", err)
			}
			if _, err := stepper(tid).wait(); err != nil {
				return frozen, err
			}
			frozen[tid] = true
		}
	}
	return frozen, nil
}

// stepper is a thread that is stopped.
type stepper int

// wait waits until it is stopped again, and returns the signal that did it.
func (s stepper) wait() (syscall.Signal, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(s), &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for a thread: %w", err)
		case !status.Stopped():
			return 0, fmt.Errorf("the thread has ended: %#x", uint32(status))
		default:
			return status.StopSignal(), nil
		}
	}
}

// toMark goes on to the next mark.
func (s stepper) toMark() error {
	for {
		if err := unix.PtraceCont(int(s), 0); err != nil {
			return err
		}
		if signal, err := s.wait(); err != nil || signal == markSignal {
			return err
		}
	}
}

// steps goes on to the next mark, one instruction after the other, and counts them.
func (s stepper) steps() (n int, err error) {
	for {
		if err := unix.PtraceSingleStep(int(s)); err != nil {
			return 0, err
		}
		if signal, err := s.wait(); err != nil || signal == markSignal {
			return n, err
		}
		n++
	}
}

// least counts some rounds of count.
func (s stepper) least() (least int, err error) {
	for round := range countRounds {
		var taken [2]int // by nothing, and by what is counted
		for i := range taken {
			if err := s.toMark(); err != nil {
				return 0, err
			}
			if taken[i], err = s.steps(); err != nil {
				return 0, err
			}
		}
		if n := taken[1] - taken[0]; round == 0 || n < least {
			least = n
		}
	}
	return least, nil
}

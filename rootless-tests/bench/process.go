package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/rootless-tests/bench/load"
)

// clockTicks a second is what /proc counts CPU time in: USER_HZ, 100 on every Linux that Go runs on.
const clockTicks = 100

// patience is how long a program has to become ready or to end: a hundred times what it takes.
const patience = 10 * time.Second

// process is a program in the background. What it prints is kept for its error.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	out  proctest.Output
}

func (p *process) messages() string { return strings.TrimSpace(p.out.String()) }

// lastMessage is the last line of them.
func (p *process) lastMessage() string {
	m := p.messages()
	return m[strings.LastIndexByte(m, '\n')+1:]
}

// launch starts cmd, which dies with the bench.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	cmd.Stderr = &p.out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A daemon's datapath outlives it and holds its outputs.
	cmd.WaitDelay = 100 * time.Millisecond
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended matters to nobody: ends are asked for by killing
	}()
	return p, nil
}

// launchAgent starts cmd, which ends up being an agent, and returns its remote.
func launchAgent(cmd *exec.Cmd) (*process, *load.Remote, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	// A pipe of our own: Wait closes that of StdoutPipe, maybe before the remote has read it.
	out, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout = w
	p, err := launch(cmd)
	w.Close()
	if err != nil {
		out.Close()
		return nil, nil, err
	}
	return p, load.NewRemote(in, out), nil
}

// stop kills the program and waits.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// waitFor calls ready until it is true, the program ends, or patience does.
func (p *process) waitFor(what string, ready func() bool) error {
	return p.waitWithin(patience, what, ready)
}

// waitWithin is waitFor with a patience of the caller's.
func (p *process) waitWithin(patience time.Duration, what string, ready func() bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ready() {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("wait for %s: it ended: %s", what, p.lastMessage())
		default:
		}
	}
	return fmt.Errorf("wait for %s: not ready in %v: %s", what, patience, p.lastMessage())
}

// cpuSeconds is what the processes have used, in user mode and in the kernel.
func cpuSeconds(pids []int) (seconds float64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		s, err := parseStat(b)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of %d: %w", pid, err)
		}
		seconds += s
	}
	return seconds, nil
}

// parseStat reads utime and stime, fields 14 and 15 of proc_pid_stat(5). The name, the second field, may
// contain blanks and parentheses; fields are counted from its end.
func parseStat(b []byte) (float64, error) {
	_, rest, ok := bytes.Cut(b[max(bytes.LastIndexByte(b, ')'), 0):], []byte(")"))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("parse stat: %q", b)
	}
	var ticks float64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseFloat(string(f), 64)
		if err != nil {
			return 0, fmt.Errorf("parse stat: %w", err)
		}
		ticks += n
	}
	return ticks / clockTicks, nil
}

// wakeUps is how often threads of the processes have waited until now, as a sum over those that live.
func wakeUps(pids []int) (total float64, err error) {
	for _, pid := range pids {
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				continue // the thread has ended
			}
			_, rest, _ := bytes.Cut(b, []byte("\nvoluntary_ctxt_switches:"))
			var n float64
			if _, err := fmt.Sscan(string(rest), &n); err != nil {
				return 0, fmt.Errorf("read context switches of %d: %w", pid, err)
			}
			total += n
		}
	}
	return total, nil
}

// residentBytes is the memory of the processes that is in RAM.
func residentBytes(pids []int) (total float64, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("read memory: %w", err)
		}
		var size, resident float64
		if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
			return 0, fmt.Errorf("read memory of %d: %w", pid, err)
		}
		total += resident * float64(os.Getpagesize())
	}
	return total, nil
}

// descendant finds the process at or below pid whose command line has word as an argument.
func descendant(pid int, word string) (int, bool) {
	parents := parentsOf()
	for candidate := range parents {
		if !hasArgument(candidate, word) {
			continue
		}
		// Up to the root; a process that ended meanwhile has no parent here and ends the climb.
		for p := candidate; p > 0; p = parents[p] {
			if p == pid {
				return candidate, true
			}
		}
	}
	return 0, false
}

func hasArgument(pid int, word string) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return slices.Contains(strings.Split(string(b), "\x00"), word)
}

// parentsOf reads the parent of every process. (The list of children in /proc is not in every kernel.)
func parentsOf() map[int]int {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			parents[pid] = parent
		}
	}
	return parents
}

package instructions

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
)

// settings are of Go's runtime in what is counted: no collections, no signals to make goroutines give way, one P, and none of what
// some processors have and others have not.
var settings = []string{"GOGC=off", "GODEBUG=asyncpreemptoff=1,cpu.all=off", "GOMAXPROCS=1"}

func command(dir string, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// inNamespaces makes cmd run as root of a network namespace of its own.
func inNamespaces(cmd *exec.Cmd) { cmd.SysProcAttr = proctest.Again(proctest.Network).SysProcAttr }

// patience is many times what a count takes on a busy machine. (-test.timeout does not bound benchmarks.)
const patience = 5 * time.Minute

// run runs cmd and returns what it printed; what stands still is made to end with all its stacks.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	// What dies with its parent dies with the parent's thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err := cmd.Start()
	if err == nil {
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
		err = cmd.Wait()
		late.Stop()
	}
	out := all.Bytes()
	if err != nil {
		t.Fatalf("run %s: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// allowed are the CPUs that the test may use.
func allowed(t *testing.T) (cpus []int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// sum is the line with which cachegrind ends; newer versions of it have one blank in "I refs".
//
//	==4711== I   refs:      52,068,039
var sum = regexp.MustCompile(`(?m)^==\d+== I +refs: +([\d,]+)$`)

// parseCount finds the number of instructions in what cachegrind prints.
func parseCount(out string) (uint64, error) {
	found := sum.FindAllStringSubmatch(out, -1)
	if len(found) != 1 {
		return 0, fmt.Errorf("parse valgrind's output: %d counts of instructions, want 1", len(found))
	}
	n, err := strconv.ParseUint(strings.ReplaceAll(found[0][1], ",", ""), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse valgrind's output: %w", err)
	}
	return n, nil
}

// perUnit is what each of units cost, when many iterations had so many more of them than few.
func perUnit(few, many uint64, units int) (float64, error) {
	if many <= few {
		return 0, fmt.Errorf("compare counts: %d with few iterations, %d with many", few, many)
	}
	return float64(many-few) / float64(units), nil
}

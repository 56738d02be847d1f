package daemon

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A daemon started by a subreaper, as a shim is, leaves no zombie when it dies; a child that somebody else waits for keeps
// its exit status.
func TestReap(t *testing.T) {
	p := home(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	if err := Ensure(t.Context(), Start{}); err != nil {
		t.Fatal(err)
	}
	pid := daemonPID(p)
	if !slices.Contains(children(t, os.Getpid()), pid) {
		t.Fatalf("daemon %d is no child of the subreaper", pid)
	}
	Reap()
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("a living daemon: %v", err)
	}
	other := exec.Command("/bin/sh", "-c", "exit 7")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the zombie", func() bool { Reap(); return syscall.Kill(pid, 0) != nil })
	if err := other.Wait(); other.ProcessState.ExitCode() != 7 {
		t.Errorf("the other child: %v", err)
	}
	if len(adopted.pids) != 0 {
		t.Errorf("still waits for %v", adopted.pids)
	}
}

package proctest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Network and Mounts are the namespaces that a test may want for itself, besides that of users; with UsersAlone it is
// in the machine's otherwise, which it has no rights in then.
const (
	UsersAlone = uintptr(0)
	Network    = uintptr(syscall.CLONE_NEWNET)
	Mounts     = uintptr(syscall.CLONE_NEWNS)
)

// insideEnv names the test that runs in namespaces of its own.
const insideEnv = "USERNET_TEST_INSIDE"

// Again is this program once more, with args, as root of a new user namespace and of the others. Whoever starts it
// keeps the goroutine on its thread meanwhile (runtime.LockOSThread): the program is killed when that thread ends.
func Again(namespaces uintptr, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | namespaces,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

// Inside reports whether the test or benchmark tb runs as root of namespaces of its own. When it does not, it is run
// once more in such ones, and fails as that one does; then there is nothing left for it to do.
func Inside(tb testing.TB, namespaces uintptr) bool {
	tb.Helper()
	if os.Getenv(insideEnv) == tb.Name() {
		return true
	}
	kind := "run"
	if _, ok := tb.(*testing.B); ok {
		kind = "bench"
	}
	args := []string{"-test.run=^$", "-test.timeout=60s", fmt.Sprintf("-test.%s=^%s$", kind, tb.Name())}
	for _, a := range os.Args[1:] {
		if a == "-test.v=true" || strings.HasPrefix(a, "-test.benchtime") {
			args = append(args, a)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := Again(namespaces, args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+tb.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		tb.Errorf("in namespaces of its own: %v\n%s", err, out)
	case kind == "bench" || testing.Verbose():
		tb.Logf("in namespaces of its own:\n%s", out)
	}
	return false
}

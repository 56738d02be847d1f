package rootlesstests

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// pastaKit runs pasta, the original (that of Debian 13) or ours, on containers.
type pastaKit struct {
	r   *rig.Rig
	dir string // of the front ends; in /tmp, so that both Debians see it
}

func newPastaKit(t *testing.T) *pastaKit {
	t.Helper()
	k := &pastaKit{r: rig.Start(t), dir: t.TempDir()}
	placeFrontEnds(t, k.dir)
	return k
}

// exec runs a command line to its end, as podman does: until nobody holds its outputs any more.
func (k *pastaKit) exec(t *testing.T, who maker, args ...string) (out string, code int) {
	t.Helper()
	if who == original {
		// A group of its own: with the end of a command the rest of its group is ended, and the original leaves that only
		// after its parent has ended.
		out, code, err := k.r.Debian13.Exec(rig.Within(t, rig.Patience), "", append([]string{"setsid", "--wait", "pasta"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out, code
	}
	b, err := exec.CommandContext(rig.Within(t, rig.Patience), filepath.Join(k.dir, "pasta"), args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return string(b), exit.ExitCode()
	}
	return string(b), 0
}

// pastaServed is a container with a pasta.
type pastaServed struct {
	*rig.Sandbox
	out string // what pasta said
	pid int    // of pasta
	end func()
}

// serve starts pasta for a container that has nothing, in the background.
func (k *pastaKit) serve(t *testing.T, who maker, args ...string) *pastaServed {
	t.Helper()
	sb, c := container(t, k.r)
	pidFile := filepath.Join(t.TempDir(), "pid")
	s := &pastaServed{Sandbox: sb}
	if who == original {
		// It looks once a second whether the process is there, by its /proc, and ends when it cannot tell.
		args = append([]string{"--no-netns-quit"}, args...)
	}
	for tries := originalTries; ; tries-- {
		var code int
		s.out, code = k.exec(t, who, append(args, "--pid", pidFile, strconv.Itoa(c.PID))...)
		b, err := os.ReadFile(pidFile)
		if code != 0 || err != nil {
			t.Fatalf("%s pasta %q: code %d, pid file %v: %s", who, args, code, err, s.out)
		}
		if s.pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			t.Fatal(err)
		}
		if who == ours || tries == 1 || connected(t, sb.Node, func(testing.TB) []int { return []int{s.pid} }) {
			break
		}
		_ = syscall.Kill(s.pid, syscall.SIGKILL) // it may have ended
	}
	ended := false
	s.end = func() {
		if ended {
			return
		}
		ended = true
		if err := syscall.Kill(s.pid, syscall.SIGTERM); err != nil {
			t.Errorf("%s pasta %q has ended: %v", who, args, err)
		}
		// Its interface goes with it, and its ports before that.
		rig.WaitFor(t, rig.Patience, "the end of pasta", func() bool { return len(links(t, sb.Node)) == 1 })
	}
	t.Cleanup(func() {
		if !ended { // a test that failed before
			_ = syscall.Kill(s.pid, syscall.SIGTERM)
		}
	})
	return s
}

// own is the container's address of a family.
func (s *pastaServed) own(t *testing.T, v6 bool) netip.Addr {
	t.Helper()
	for _, l := range links(t, s.Node) {
		for _, a := range l.Addrs {
			if l.Name != "lo" && a.Local.Is6() == v6 && !(v6 && a.Local.IsLinkLocalUnicast()) {
				return a.Local
			}
		}
	}
	t.Fatalf("no address inside (IPv6 %v)", v6)
	return netip.Addr{}
}

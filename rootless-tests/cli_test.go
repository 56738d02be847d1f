package rootlesstests

import (
	"context"
	"embed"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// scripts come with the binary, because the user of the tests may not be able to read the place they are in.
//
//go:embed testdata/script/*.txtar
var scripts embed.FS

// TestScript runs the scripts of testdata/script: the command line as people type it, in H.
//
// Beyond what testscript has, there are
//
//	code N CMD...    runs a command whose exit code must be N
//	until CMD...     runs a command again and again until it succeeds
//	x1 CMD...        runs a command that must succeed in X1; ! for one that must not
//
// and, in the environment, P0 to P4: five host ports in a row that nobody uses. A script has an
// XDG_RUNTIME_DIR of its own, so that usernet ps shows its sandboxes and no others, and directories for a daemon of
// its own, which DOCKER_HOST leads to.
func TestScript(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, scripts); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join(dir, "testdata", "script"),
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			const ports = 5
			first := lastPort.Add(ports) - ports + 1
			for i := range ports {
				e.Setenv("P"+strconv.Itoa(i), strconv.Itoa(20000+int(first)+i))
			}
			e.Setenv("PATH", filepath.Dir(rig.Usernet)+":"+os.Getenv("PATH"))
			// Not in WorkDir, whose name may be too long for the address of a socket.
			home, err := os.MkdirTemp("", "s")
			if err != nil {
				return err
			}
			e.Defer(func() {
				endAll(t, e.Vars, filepath.Join(home, "run", "usernet"))
				os.RemoveAll(home)
			})
			for name, dir := range map[string]string{"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"} {
				e.Setenv(name, filepath.Join(home, dir))
				if err := os.Mkdir(e.Getenv(name), fs.FileMode(0o700)); err != nil {
					return err
				}
			}
			e.Setenv("DOCKER_HOST", "unix://"+filepath.Join(home, "run", "usernet", "usernet.sock"))
			e.Setenv("DOCKER_CONFIG", e.Getenv("XDG_CONFIG_HOME"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":  code,
			"until": func(ts *testscript.TestScript, _ bool, args []string) { until(t, ts, args) },
			"x1":    func(ts *testscript.TestScript, neg bool, args []string) { inNode(ts, r.X1, neg, args) },
		},
	})
}

// endAll ends what a script that failed has left running in the background: its sandboxes and its daemon.
func endAll(t *testing.T, env []string, runtimeDir string) {
	run := func(args ...string) string {
		c := exec.Command(rig.Usernet, args...)
		c.Env = env
		out, err := c.Output()
		if err != nil {
			t.Logf("usernet %v: %v", args, err)
		}
		return string(out)
	}
	if left := strings.Fields(run("ps", "-q")); len(left) > 0 {
		run(append([]string{"rm", "-f"}, left...)...)
	}
	b, err := os.ReadFile(filepath.Join(runtimeDir, "daemon.pid"))
	if err != nil {
		return
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N CMD...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

func until(t *testing.T, ts *testscript.TestScript, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: until CMD...")
	}
	if !rig.Eventually(t, rig.Patience, func() bool { return ts.Exec(args[0], args[1:]...) == nil }) {
		ts.Fatalf("not within %v", rig.Patience)
	}
}

func inNode(ts *testscript.TestScript, n *rig.Node, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
	defer cancel()
	out, code, err := n.Exec(ctx, "", args...)
	ts.Check(err)
	if _, err := io.WriteString(ts.Stdout(), out); err != nil {
		ts.Fatalf("%v", err)
	}
	if (code == 0) == neg {
		ts.Fatalf("exit code %d", code)
	}
}

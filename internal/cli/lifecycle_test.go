package cli

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/tap"
)

// inBackground starts a detached sandbox and returns its id.
func inBackground(t *testing.T, name string, flags ...string) string {
	t.Helper()
	args := append([]string{"run", "--detach", "--name", name}, flags...)
	got := invoke(t, append(args, "--", "sleep", "inf")...)
	if got.code != 0 || len(strings.TrimSpace(got.out)) != 64 {
		t.Fatalf("run --detach: %+v", got)
	}
	t.Cleanup(func() { invoke(t, "rm", "--force", name) })
	return strings.TrimSpace(got.out)
}

// C-run2, DN1, DH1: sandboxes of every mode run in the background, are listed, inspected, entered and ended,
// without a daemon.
func TestDetached(t *testing.T) {
	for _, mode := range []string{"private", "none", "host"} {
		t.Run(mode, func(t *testing.T) {
			name := "bg-" + mode
			id := inBackground(t, name, "--network", mode, "--label", "tier="+mode, "--label", "x")
			// C-run5
			got := invoke(t, "inspect", "--format", "{{.Id}} {{.State.Pid}} {{.HostConfig.NetworkMode}} {{.Name}}", name)
			f := strings.Fields(got.out)
			if got.code != 0 || len(f) != 4 || f[0] != id || f[1] == "0" || f[2] != mode || f[3] != "/"+name {
				t.Errorf("inspect: %+v", got)
			}
			if got := invoke(t, "ps", "--filter", "label=tier="+mode, "--filter", "label=x", "--no-trunc", "--quiet"); got.out != id+"\n" {
				t.Errorf("ps: %+v", got)
			}
			if got := invoke(t, "ps", "--filter", "name="+name, "--format", `{{.Networks}} {{.Label "tier"}} {{.Names}} {{.CommandLine}}`); got.out != mode+" "+mode+" "+name+" sleep inf\n" {
				t.Errorf("ps: %+v", got)
			}
			for _, filter := range []string{"id=0000", "network=other", "label=tier=other", "name=other"} {
				if got := invoke(t, "ps", "--quiet", "--filter", filter); got.out != "" || got.code != 0 {
					t.Errorf("ps --filter %s: %+v", filter, got)
				}
			}
			// What is not forced is refused, as docker rm refuses it.
			if got := invoke(t, "rm", id[:12]); got.code != 1 || !strings.Contains(got.stderr, "container is running") {
				t.Errorf("rm: %+v", got)
			}
			if got := invoke(t, "rm", "-f", id[:12]); got.code != 0 || got.out != id[:12]+"\n" {
				t.Errorf("rm -f: %+v", got)
			}
			if got := invoke(t, "inspect", name); got.code != 1 || got.out != "[]\n" || got.stderr != "Error: No such object: "+name+"\n" {
				t.Errorf("inspect of nothing: %+v", got)
			}
			if got := invoke(t, "rm", "-f", name); got.code != 0 {
				t.Errorf("rm -f of nothing: %+v", got)
			}
		})
	}
}

// A detached start that fails says why, with the code that it would have had in the foreground.
func TestDetachedFails(t *testing.T) {
	for _, row := range []struct {
		args, want string
		code       int
	}{
		{"--network none -- /no/such/command", "/no/such/command", 127},
		{"--network container:nobody -- true", "No such container: nobody", 125},
		{"--bogus -- true", "unknown flag", 125},
	} {
		got := invoke(t, append([]string{"run", "-d"}, strings.Fields(row.args)...)...)
		if got.code != row.code || got.out != "" || strings.Count(got.stderr, row.want) != 1 {
			t.Errorf("%s: %+v", row.args, got)
		}
	}
	inBackground(t, "taken", "--network", "none")
	if got := invoke(t, "run", "--detach", "--name", "taken", "--network", "none", "true"); got.code != 125 || !strings.Contains(got.stderr, "the name is in use") {
		t.Errorf("a name in use: %+v", got)
	}
}

// stop ends with SIGTERM what heeds it.
func TestStop(t *testing.T) {
	inBackground(t, "stopping", "--network", "none")
	if got := invoke(t, "stop", "stopping"); got.code != 0 || got.out != "stopping\n" {
		t.Errorf("%+v", got)
	}
	if got := invoke(t, "stop", "stopping"); got.code != 1 || !strings.Contains(got.stderr, "No such container: stopping") {
		t.Errorf("%+v", got)
	}
}

// DC1 to DC3: a sandbox in another's network sees what the other has there.
func TestContainerMode(t *testing.T) {
	id := inBackground(t, "donor", "--network", "none", "--hostname", "box")
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	const what = "hostname; readlink /proc/self/ns/net"
	entered, code := process(t, "exec", "donor", "--", "sh", "-c", what)
	if f := strings.Fields(entered); code != 0 || len(f) != 2 || f[0] != "box" || f[1] == own {
		t.Errorf("exec: %d, %s", code, entered)
	}
	if shared, code := process(t, "run", "--network", "container:donor", "--", "sh", "-c", what); code != 0 || shared != entered {
		t.Errorf("run: %d, %s, want %s", code, shared, entered)
	}
	inBackground(t, "second", "--network", "container:donor")
	if got := invoke(t, "inspect", "-f", "{{.HostConfig.NetworkMode}}", "second"); got.out != "container:"+id+"\n" {
		t.Errorf("%+v", got)
	}
	for command, want := range map[string]int{"/no/such": 127, "/etc/passwd": 126, "false": 1} {
		if out, code := process(t, "exec", "donor", "--", command); code != want {
			t.Errorf("exec %s: %d, %s", command, code, out)
		}
	}
	for _, args := range [][]string{{"exec", "donor"}, {"exec", "donor", "--"}, {"exec", "nobody", "true"}, {"exec", "-e", "=x", "donor", "true"}} {
		if got := invoke(t, args...); got.code != 125 || got.stderr == "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// process runs a command line in a process of its own: run ends what is below its process, and exec replaces it.
func process(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR")}
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// FuzzFilter: a filter is refused or filters; it never panics.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"name=web", "name=(", "label=a=b", "status=exited", "x=y", "id="} {
		f.Add(s)
	}
	row := psRow{Name: "web", Networks: words{"backend"}, Labels: labelMap{"a": "b"}, fullID: registry.NewID()}
	f.Fuzz(func(t *testing.T, s string) {
		l := filterList{}
		if l.Set(s) != nil {
			return
		}
		if keep, err := psFilter(l); err == nil {
			keep(row)
		}
	})
}

// A report is one JSON value; the reader of it takes nothing else.
func TestReport(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep := &reporter{w}
	rep.send(report{ID: "x", Warnings: []string{"careful"}})
	rep.send(report{Error: "a second one"})
	var nobody *reporter
	nobody.send(report{})
	var got report
	dec := json.NewDecoder(r)
	if err := dec.Decode(&got); err != nil || got.ID != "x" || got.Warnings[0] != "careful" || dec.More() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestMemberEnds: a change that the network asks for when the sandbox is ending is answered as one of a sandbox that has ended,
// which is no failure to tell of.
func TestMemberEnds(t *testing.T) {
	changes, reply := make(chan shim.Change), make(chan error, 1)
	m := newMember(asking{changes}, nil)
	changes <- shim.Change{Reply: reply}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-reply; !errors.Is(err, shim.ErrEnded) {
		t.Errorf("the change: %v, want %v", err, shim.ErrEnded)
	}
	if err := m.signal(syscall.SIGTERM); !errors.Is(err, shim.ErrEnded) {
		t.Errorf("a signal: %v, want %v", err, shim.ErrEnded)
	}
}

// asking is a Network that asks for changes.
type asking struct{ changes chan shim.Change }

func (asking) Attach(string, *os.File, tap.Info) error { return nil }
func (asking) Started(int)                             {}
func (a asking) Changes() <-chan shim.Change           { return a.changes }
func (asking) Done() <-chan struct{}                   { return nil }
func (asking) Close() error                            { return nil }

package rootlesstests

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// version is a podman: the machine's, or that of another Debian.
type version int

const (
	podman4 version = 4
	podman5 version = 5
)

func (v version) String() string { return "podman" + strconv.Itoa(int(v)) }

// podman is one with storage and a configuration of its own.
type podman struct {
	rig     *rig.Rig
	version version
	maker   maker
	dir     string
	env     []string
	options []string
}

// newPodman makes one that calls the maker's network programs, with an image, bb, in its storage. What it started is
// ended with the test.
func newPodman(t *testing.T, r *rig.Rig, v version, m maker) *podman {
	t.Helper()
	// Not t.TempDir, whose name may be too long for the address of a socket.
	dir, err := os.MkdirTemp("", "podman")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAsRoot(t, r, dir) })
	p := &podman{rig: r, version: v, maker: m, dir: dir}
	for _, d := range []string{"bin", "tmp", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if m == ours {
		placeFrontEnds(t, p.path("bin"))
	}
	conf := p.path("containers.conf")
	if err := os.WriteFile(conf, []byte(p.configuration()), 0o644); err != nil {
		t.Fatal(err)
	}
	p.env = []string{"CONTAINERS_CONF=" + conf, "HOME=" + p.path("home")}
	p.options = []string{"--root", p.path("root"), "--runroot", p.path("run"), "--tmpdir", p.path("tmp")}
	// It keeps a process that holds its user namespace.
	t.Cleanup(func() { p.must(t, "system", "migrate") })
	p.must(t, "import", busyboxImage(t), "bb")
	t.Cleanup(func() { p.clear(t) })
	return p
}

// clear removes all containers.
func (p *podman) clear(t testing.TB) {
	t.Helper()
	p.must(t, "pod", "rm", "--all", "--force", "--time", "0")
	p.must(t, "rm", "--all", "--force", "--time", "0")
}

func (p *podman) path(name string) string { return filepath.Join(p.dir, name) }

// configuration is the containers.conf. Where slirp4netns is asked for by podman 4 it is found by network_cmd_path,
// everything else by helper_binaries_dir.
func (p *podman) configuration() string {
	dirs := []string{p.path("bin"), "/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"}
	conf := fmt.Sprintf("[containers]\ncgroups = \"disabled\"\n[engine]\nevents_logger = \"file\"\nhelper_binaries_dir = [\"%s\"]\n", strings.Join(dirs, `", "`))
	if p.version == podman4 && p.maker == ours {
		conf += fmt.Sprintf("network_cmd_path = %q\n", p.path("bin/slirp4netns"))
	}
	return conf
}

// removeAsRoot removes files of which some belong to ids that are not the user's own.
func removeAsRoot(t *testing.T, r *rig.Rig, dir string) {
	t.Helper()
	if code := r.Usernet(t, nil, "run", "--network", "none", "--map", "auto", "--", "rm", "-rf", dir).Exit(t); code != 0 {
		t.Errorf("remove %s: exit code %d", dir, code)
	}
}

// try runs podman to its end, and returns its outputs and its exit code.
func (p *podman) try(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return p.tryProgram(t, slices.Concat([]string{"podman"}, p.options, args)...)
}

// tryProgram is try for a program that stands where this podman does. The outputs are files: what podman leaves behind may
// hold them open.
func (p *podman) tryProgram(t testing.TB, argv ...string) (stdout, stderr string, code int) {
	t.Helper()
	// Not the test's context, which has ended when what is left is removed.
	ctx, cancel := context.WithTimeout(context.Background(), podmanPatience)
	defer cancel()
	var out [2]*os.File
	for i := range out {
		f, err := os.CreateTemp("", "output")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		out[i] = f
	}
	code, err := p.run(ctx, out[0], out[1], argv)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	var text [2]string
	for i, f := range out {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		text[i] = strings.TrimSpace(string(b))
	}
	return text[0], text[1], code
}

// run runs a command where this podman is.
func (p *podman) run(ctx context.Context, stdout, stderr *os.File, argv []string) (int, error) {
	if p.version == podman5 {
		if argv[0] == "podman" {
			// In a session of its own: a node ends a command's process group with it, and the original pasta leaves that only
			// when it has been in the background for a moment.
			argv = slices.Concat([]string{"setsid", "--wait"}, argv)
		}
		c, err := p.rig.Debian13.Start(ctx, nil, stdout, stderr, slices.Concat([]string{"env", "-C", "/"}, p.env, argv)...)
		if err != nil {
			return -1, err
		}
		return c.Wait()
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir, c.Stdout, c.Stderr = "/", stdout, stderr
	c.Env = append(os.Environ(), p.env...)
	if err := c.Run(); c.ProcessState == nil {
		return -1, err
	}
	return c.ProcessState.ExitCode(), nil
}

// must is try for what has to succeed; it returns the standard output.
func (p *podman) must(t testing.TB, args ...string) string {
	t.Helper()
	stdout, stderr, code := p.try(t, args...)
	if code != 0 {
		t.Fatalf("%v with %s programs: podman %s: exit code %d\n%s\n%s", p.version, p.maker, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// idle is a command that does nothing until it is asked to end, which the first process of a container otherwise
// does not hear.
var idle = []string{"/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 1000 & wait; done"}

// podContainer is a running container, and the node in its namespaces.
type podContainer struct {
	*rig.Node
	podman *podman
	name   string
}

// start runs a container with flags and enters it.
func (p *podman) start(t testing.TB, name string, flags ...string) *podContainer {
	t.Helper()
	args := slices.Concat([]string{"run", "--detach", "--name", name}, flags, []string{"bb"}, idle)
	for tries := originalTries; ; tries-- {
		p.must(t, args...)
		c := p.enter(t, name)
		if p.maker == ours || tries == 1 || connected(t, c.Node, c.helpers) {
			return c
		}
		c.Close()
		p.must(t, "rm", "--force", "--time", "0", name)
	}
}

// reconnected is a container that was started again, and once more where the original's program left it without an
// interface.
func (c *podContainer) reconnected(t testing.TB) *podContainer {
	t.Helper()
	for tries := originalTries; c.podman.maker == original && tries > 1 && !connected(t, c.Node, c.helpers); tries-- {
		c.Close()
		c.podman.try(t, "restart", "--time", "0", c.name)
		c = c.podman.enter(t, c.name)
	}
	return c
}

// enter makes a node in the namespaces of a container as it runs now.
func (p *podman) enter(t testing.TB, name string) *podContainer {
	t.Helper()
	pid, err := strconv.Atoi(p.must(t, "inspect", "--format", "{{.State.Pid}}", name))
	if err != nil {
		t.Fatal(err)
	}
	return &podContainer{p.rig.Inside(t, pid), p, name}
}

// helpers are the network programs that run for a container, by the path of its network namespace, which is among
// their arguments.
func (c *podContainer) helpers(t testing.TB) (pids []int) {
	t.Helper()
	path := c.podman.must(t, "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", c.name)
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || path == "" {
		t.Fatalf("network namespace %q: %v", path, err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f) // it may have ended
		if slices.Contains(strings.Split(string(b), "\x00"), path) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// wantMaker checks whose program runs for a container, and that one does.
func (c *podContainer) wantMaker(t testing.TB) {
	t.Helper()
	pids := c.helpers(t)
	if len(pids) == 0 {
		t.Fatalf("no network program runs for %s", c.name)
	}
	for _, pid := range pids {
		// Root's to read: it does not let itself be looked at.
		exe := strings.TrimSpace(c.podman.rig.H.Run(t, "readlink", fmt.Sprintf("/proc/%d/exe", pid)))
		if own := filepath.Base(exe) == filepath.Base(rig.Usernet); own != (c.podman.maker == ours) {
			t.Errorf("the network program of %s is %s, want %s", c.name, exe, c.podman.maker)
		}
	}
}

// nameservers are those in its resolv.conf.
func (c *podContainer) nameservers(t testing.TB) (all []netip.Addr) {
	t.Helper()
	for line := range strings.Lines(c.podman.must(t, "exec", c.name, "/bin/busybox", "cat", "/etc/resolv.conf")) {
		if word, ok := strings.CutPrefix(line, "nameserver "); ok {
			a, err := netip.ParseAddr(strings.TrimSpace(word))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, a)
		}
	}
	return all
}

package rootlesstests

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// podman of Debian, in the two ways it is used with usernet: inside a sandbox, whose network it shares, and
// outside, with a container without a network that gets one.

// page is what the image's web server serves.
const page = "a page from a container\n"

// busyboxImage writes the tar file of an image: busybox, and a page to serve.
func busyboxImage(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name    string
		mode    int64
		content []byte
	}{{"bin/busybox", 0o755, program}, {"www/index.html", 0o644, []byte(page)}, {"etc/passwd", 0o644, []byte("root:x:0:0::/:/bin/sh\n")}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// httpd is a script of the image that serves the page, and ends when it is asked to, which the first process
// of a pid namespace otherwise does not.
const httpd = `/bin/busybox sh -c 'trap "exit 3" TERM; /bin/busybox httpd -f -p 80 -h /www & wait'`

// podmanPatience is for podman's own work: unpacking an image, setting up a container.
const podmanPatience = 3 * rig.Patience

// wantPage waits until an internet host gets the page from a published port.
func wantPage(t *testing.T, r *rig.Rig, f family, port uint16) {
	t.Helper()
	url := fmt.Sprintf("http://%v/", at(f.host, port))
	rig.WaitFor(t, podmanPatience, "page at "+url, func() bool {
		out, code, err := r.X1.Exec(rig.Within(t, rig.Patience), "", "curl", "-gsSf", url)
		return err == nil && code == 0 && out == page
	})
}

// storage are podman's options for files of a test's own, and their removal.
func storage(t *testing.T, r *rig.Rig) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		// What podman unpacked belongs to ids that are not the user's own.
		if code := r.Usernet(t, nil, "run", "--network", "none", "--map", "auto", "--", "rm", "-rf", dir).Exit(t); code != 0 {
			t.Errorf("remove podman's files: exit code %d", code)
		}
	})
	return fmt.Sprintf("--root %[1]s/root --runroot %[1]s/run --tmpdir %[1]s/tmp", dir)
}

// The main job: podman in a sandbox, and its server at a port of the host. Nothing of either stays, however
// the sandbox ends.
func TestPodmanInside(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	image := busyboxImage(t)
	for _, end := range []struct {
		by   syscall.Signal
		code int
	}{{syscall.SIGTERM, 3}, {syscall.SIGKILL, 128 + int(syscall.SIGKILL)}} {
		t.Run(end.by.String(), func(t *testing.T) {
			port, flag := publish(80, "tcp")
			podman := "podman " + storage(t, r)
			p := r.Usernet(t, nil, "run", "--map", "auto", "--publish", flag, "--", "sh", "-ec", fmt.Sprintf(
				`%[1]s import %[2]s bb; exec %[1]s run --rm --cgroups=disabled --network host bb %[3]s`, podman, image, httpd))
			bothFamilies(t, func(t *testing.T, f family) { wantPage(t, r, f, port) })
			inside := below(p.PID())
			if len(inside) < 5 { // init, datapath, podman, conmon, shell, httpd
				t.Errorf("processes are %v", inside)
			}
			if err := p.Cmd.Process.Signal(end.by); err != nil {
				t.Fatal(err)
			}
			if code := p.Exit(t); code != end.code {
				t.Errorf("exit code %d, want %d", code, end.code)
			}
			rig.WaitFor(t, rig.Patience, "end of all processes", func() bool { return !slices.ContainsFunc(inside, alive) })
			if on := listenersOn(t, port); len(on) > 0 {
				t.Errorf("the port is still open: %v", on)
			}
		})
	}
}

// podmanWith returns podman as a command with storage of the test's own and an image, bb, in it.
func podmanWith(t *testing.T, r *rig.Rig, image string) func(t *testing.T, args ...string) string {
	t.Helper()
	options := strings.Fields(storage(t, r))
	podman := func(t *testing.T, args ...string) string {
		t.Helper()
		// Not the test's context, which has ended when what is left is removed.
		ctx, cancel := context.WithTimeout(context.Background(), podmanPatience)
		defer cancel()
		var stdout, stderr bytes.Buffer
		c := exec.CommandContext(ctx, "podman", slices.Concat(options, args)...)
		c.Dir, c.Stdout, c.Stderr = "/", &stdout, &stderr
		if err := c.Run(); err != nil {
			t.Fatalf("podman %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
		}
		return strings.TrimSpace(stdout.String())
	}
	// It keeps a process that holds its user namespace.
	t.Cleanup(func() { podman(t, "system", "migrate") })
	podman(t, "import", image, "bb")
	return podman
}

// A container without a network gets one, with a published port, and both end with the container.
func TestPodmanAttach(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	podman := podmanWith(t, r, busyboxImage(t))
	for _, end := range [][]string{{"stop", "web"}, {"kill", "web"}} {
		t.Run(end[0], func(t *testing.T) {
			// Busybox pings with raw sockets only.
			podman(t, "run", "--detach", "--name", "web", "--cgroups=disabled", "--network", "none", "--cap-add", "NET_RAW", "bb", "/bin/busybox", "sh", "-c", "exec "+httpd)
			t.Cleanup(func() { podman(t, "rm", "--force", "web") })
			port, flag := publish(80, "tcp")
			p := r.Usernet(t, nil, "attach", "--publish", flag, podman(t, "inspect", "--format", "{{.State.Pid}}", "web"))
			wantPage(t, r, families[0], port) // it is attached
			// Whoever has no NET_RAW pings too, with a ping socket: podman's own range has the group 0 alone.
			for name, want := range map[string]string{"ping_group_range": "0\t65536", "ip_unprivileged_port_start": "0"} {
				if got := podman(t, "exec", "web", "/bin/busybox", "cat", "/proc/sys/net/ipv4/"+name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			bothFamilies(t, func(t *testing.T, f family) {
				wantPage(t, r, f, port)
				l := r.X1.ListenTCP(t, at(f.x1, 0))
				serveHTTP(t, l)
				if out := podman(t, "exec", "web", "/bin/busybox", "wget", "-q", "-O", "-", fmt.Sprintf("http://%v/5", l.Addr())); len(out) != 5 {
					t.Errorf("wget: %q", out)
				}
				if out := podman(t, "exec", "web", "/bin/busybox", "ping", "-c", "1", f.x1.String()); !strings.Contains(out, "1 packets received") {
					t.Errorf("ping:\n%s", out)
				}
			})
			podman(t, end...)
			rig.WaitFor(t, 5*time.Second, "end of the published port", func() bool { return len(listenersOn(t, port)) == 0 })
			if code := p.Exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// Containers of podman join a named network: they ping each other by name, one's published port is reached from
// outside, and each leaves with its container.
func TestPodmanJoined(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "--ipv6", "backend")
	podman := podmanWith(t, r, busyboxImage(t))
	port, flag := publish(80, "tcp")
	attached := map[string]*rig.Process{}
	for name, flags := range map[string][]string{"c1": {"--publish", flag}, "c2": nil} {
		podman(t, "run", "--detach", "--name", name, "--cgroups=disabled", "--network", "none", "--cap-add", "NET_RAW", "bb", "/bin/busybox", "sh", "-c", "exec "+httpd)
		t.Cleanup(func() { podman(t, "rm", "--force", name) })
		pid := podman(t, "inspect", "--format", "{{.State.Pid}}", name)
		attached[name] = d.Usernet(t, slices.Concat([]string{"attach", "--network", "backend", "--name", name}, flags, []string{pid})...)
	}
	rig.WaitFor(t, podmanPatience, "both containers in the network", func() bool {
		return d.Must(t, "usernet", "network", "inspect", "-f", "{{len .Containers}}", "backend") == "2"
	})
	for from, to := range map[string]string{"c1": "c2", "c2": "c1"} {
		if out := podman(t, "exec", from, "/bin/busybox", "ping", "-c", "1", to); !strings.Contains(out, "1 packets received") {
			t.Errorf("%s pings %s:\n%s", from, to, out)
		}
	}
	bothFamilies(t, func(t *testing.T, f family) { wantPage(t, r, f, port) })
	if out := podman(t, "exec", "c2", "/bin/busybox", "wget", "-q", "-O", "-", "http://c1/"); out+"\n" != page {
		t.Errorf("c2 gets %q from c1", out)
	}
	podman(t, "kill", "c1")
	if code := attached["c1"].Exit(t); code != 0 {
		t.Errorf("attach of c1: exit code %d", code)
	}
	if got := d.Must(t, "usernet", "network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "backend"); got != "c2" {
		t.Errorf("in the network after the end of c1: %q", got)
	}
	if on := listenersOn(t, port); len(on) > 0 {
		t.Errorf("the port is still open: %v", on)
	}
}

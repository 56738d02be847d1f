package rootlesstests

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// buildah starts a network program for each command that it runs in a container, and ends it with that. What is asked
// is asked by such commands.

// buildahQuestions are what they say of the network that they find.
var buildahQuestions = map[string]string{
	"addresses":              "ip -o address show scope global | grep -o 'inet.*/[0-9]*'",
	"routes":                 "ip -4 route | sed 's/ *src .*//; s/ *$//' | sort -u",
	"MTU":                    "ip link | grep -o 'mtu [0-9]*'",
	"name servers":           "cat /etc/resolv.conf",
	"name":                   "nslookup buildah.test | sed -n '/^Name/,$p'",
	"tcp to internet":        "echo who | nc -w 20 $X1 $WHOAMI",
	"tcp to closed port":     "nc -w 20 $X1 1 </dev/null || echo failed",
	"tcp to host":            "echo who | nc -w 20 $H $OWN || echo failed",
	"tcp to host's loopback": "echo who | nc -w 20 $GATEWAY $LOOPBACK || echo failed",
}

// buildahScript is one of them with what it needs: the image has a busybox without links.
func (w *world) buildahScript(gateway netip.Addr, script string) string {
	var b strings.Builder
	for _, name := range []string{"ip", "grep", "cat", "nslookup", "sed", "sort", "nc"} {
		fmt.Fprintf(&b, "%s() { /bin/busybox %[1]s \"$@\"; }\n", name)
	}
	fmt.Fprintf(&b, "X1=%v H=%v GATEWAY=%v WHOAMI=%d OWN=%d LOOPBACK=%d\n", rig.X1v4, rig.H4, gateway, w.whoami["IPv4"], w.own["IPv4"], w.loopback["IPv4"])
	return b.String() + script
}

// TestBuildah: a container is made, commands are run in it, and an image is built by steps that fetch something.
func TestBuildah(t *testing.T) {
	w := newWorld(t, podman4, podman5)
	l := w.rig.X1.ListenTCP(t, at(rig.X1v4, 0))
	serveHTTP(t, l)
	for _, k := range []struct {
		version version
		program string // that it starts
		gateway netip.Addr
	}{
		{podman4, "slirp4netns", rig.Gateway4},
		{podman5, "pasta", rig.R4},
	} {
		t.Run(fmt.Sprint("beside ", k.version, " ", k.program), func(t *testing.T) {
			originals, own := askBoth(t, func(t *testing.T, m maker) answers {
				b := w.podmans[k.version][m].buildah(t)
				t.Cleanup(func() { b.must(t, "rm", "--all") })
				a := answers{}
				b.must(t, "from", "--name", "work", "bb")
				for q, script := range buildahQuestions {
					a[q] = b.must(t, "run", "work", "--", "/bin/busybox", "sh", "-c", w.buildahScript(k.gateway, script))
				}
				a["built"] = b.build(t, fmt.Sprintf("http://%v/7", l.Addr()))
				if got := b.called(t); m == ours && !slices.Equal(slices.Compact(got), []string{k.program}) {
					t.Errorf("programs that were started: %v, want %s", got, k.program)
				}
				return a
			})
			wantSame(t, originals, own, nil)
		})
	}
}

// buildah is one beside a podman of the same Debian, whose images it uses.
type buildah struct{ podman }

// buildah is one that finds our programs, where they are wanted, behind scripts that note their names: they end with each
// command, before anybody can look at them.
func (p *podman) buildah(t *testing.T) *buildah {
	t.Helper()
	b := &buildah{*p}
	path := "/usr/bin:/usr/sbin:/bin:/sbin"
	if p.maker == ours {
		for _, name := range frontEnds {
			if err := os.Rename(p.path("bin/"+name), p.path("home/"+name)); err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf("#!/bin/sh\necho %s >>%s\nexec %s \"$@\"\n", name, p.path("tmp/called"), p.path("home/"+name))
			if err := os.WriteFile(p.path("bin/"+name), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		path = p.path("bin") + ":" + path
	}
	b.env = append(slices.Clone(p.env), "PATH="+path)
	return b
}

// buildahTries is how often a command may begin that buildah 1.28 has given up. It allows slirp4netns a second to be ready,
// then asks wait4(2) without waiting whether it has ended, and takes "nothing to tell" for the end: the status is zero. On a
// busy machine that comes for the original as well.
const buildahTries = 10

// must runs buildah, which has to succeed, and returns its standard output.
func (b *buildah) must(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr string
	var code int
	for range buildahTries {
		stdout, stderr, code = b.tryProgram(t, slices.Concat([]string{"buildah", "--root", b.path("root"), "--runroot", b.path("run")}, args)...)
		if code == 0 || b.version != podman4 || !strings.Contains(stderr, "slirp4netns failed") {
			break
		}
		t.Logf("slirp4netns (%s) was not ready within a second, and buildah %s is run once more", b.maker, args[0])
	}
	if code != 0 {
		t.Fatalf("buildah of %v's Debian with %s programs: %s: exit code %d\n%s\n%s", b.version, b.maker, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// build builds an image with a file that one step fetches and the next reads, and returns what is in it.
func (b *buildah) build(t *testing.T, url string) string {
	t.Helper()
	dir := b.path("context")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "Containerfile")
	text := fmt.Sprintf("FROM bb\nRUN [\"/bin/busybox\", \"wget\", \"-q\", \"-O\", \"/fetched\", %q]\nRUN [\"/bin/busybox\", \"cp\", \"/fetched\", \"/copied\"]\n", url)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.must(t, "bud", "--tag", "built", "--file", file, dir)
	b.must(t, "from", "--name", "result", "built")
	return b.must(t, "run", "result", "--", "/bin/busybox", "wc", "-c", "/fetched", "/copied")
}

// called are the programs of ours that were started, one each time.
func (b *buildah) called(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(b.path("tmp/called"))
	if err != nil && b.maker == ours {
		t.Error(err)
	}
	return strings.Fields(string(text))
}

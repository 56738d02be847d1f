package rootlesstests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// TestPastaPorts: ports of both directions, in the forms that podman uses and by exclusion.
func TestPastaPorts(t *testing.T) {
	k := newPastaKit(t)
	const in, out = 18080, 18090
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	where := serveWhoami(t, k.r.H, at(lo, 0))
	said := map[maker]answers{}
	for _, who := range makers {
		a := answers{}
		s := k.serve(t, who, "--config-net", "--quiet", "-t", fmt.Sprintf("203.0.113.1/%d-%d:80-81,~%d", in, in+1, in+1),
			"-u", fmt.Sprintf("%d-%d:80-80", in, in), "-T", fmt.Sprintf("%d:%d", out, where.Port()), "-U", "none")
		serveWhoami(t, s.Node, at(netip.IPv4Unspecified(), 80))
		a["tcp from outside"] = askWhoami(t, k.r.X1, "tcp", at(rig.H4, in))
		a["udp from outside"] = askWhoami(t, k.r.X1, "udp", at(rig.H4, in))
		a["udp from the host's loopback"] = askWhoami(t, k.r.H, "udp", at(lo, in))
		a["tcp, another address of the host"] = askWhoami(t, k.r.X1, "tcp", at(rig.H24, in))
		a["tcp, excluded"] = askWhoami(t, k.r.X1, "tcp", at(rig.H4, in+1))
		a["host's loopback from inside"] = askWhoami(t, s.Node, "tcp", at(lo, out))
		a["not forwarded"] = askWhoami(t, s.Node, "tcp", at(lo, out+1))
		s.end()
		rig.Eventually(t, rig.Patience, func() bool { // whose connection is still in the queue is reset
			a["after the end"] = askWhoami(t, k.r.X1, "tcp", at(rig.H4, in))
			return a["after the end"] == "connection refused"
		})
		said[who] = a
	}
	wantSame(t, said[original], said[ours], map[string]difference{
		"udp from the host's loopback": {"seen as " + rig.R4.String(), "the original sends from inside, by the container's own address; our datagrams all come by the interface"},
	})
	if got := said[ours]["tcp from outside"]; got != "seen as "+rig.X1v4.String() {
		t.Errorf("tcp from outside: %s", got)
	}
}

// TestPastaAuto: ports follow who listens, in both directions.
func TestPastaAuto(t *testing.T) {
	k := newPastaKit(t)
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for i, who := range makers {
		port := uint16(18100 + 2*i)
		s := k.serve(t, who, "--config-net", "--quiet", "-t", "auto", "-T", "auto", "-u", "none", "-U", "none")
		if got := askWhoami(t, k.r.X1, "tcp", at(rig.H4, port)); got != "connection refused" {
			t.Errorf("%s: before anybody listens: %s", who, got)
		}
		serveWhoami(t, s.Node, at(netip.IPv4Unspecified(), port))
		rig.WaitFor(t, rig.Patience, "the port of a server inside", func() bool {
			return askWhoami(t, k.r.X1, "tcp", at(rig.H4, port)) == "seen as "+rig.X1v4.String()
		})
		host := serveWhoami(t, k.r.H, at(lo, port+1))
		rig.WaitFor(t, rig.Patience, "the port of a server on the host", func() bool {
			return strings.HasPrefix(askWhoami(t, s.Node, "tcp", at(lo, host.Port())), "seen as ")
		})
		s.end()
	}
}

// TestPastaCommand: a command in namespaces of its own, and how it ends.
func TestPastaCommand(t *testing.T) {
	k := newPastaKit(t)
	said := map[maker]answers{}
	for _, who := range makers {
		a := answers{}
		for _, line := range []string{
			"--config-net -- true", "-- sh -c exit\t7", "-- sh -c sh\t-c\t'kill\t-9\t$$'", "-- /nonexistent/command", "--version", "--help", "--of-the-future 1",
			"-t x -- true", "--netns /nonexistent/path", "-m 70000 -- true", "--netns /n 5", "-s /tmp/x", "--config-net -- cat /proc/self/uid_map", "-- cat /proc/sys/kernel/hostname",
		} {
			var args []string
			for _, f := range strings.Fields(strings.ReplaceAll(line, "\t", "\x00")) {
				args = append(args, strings.ReplaceAll(f, "\x00", " "))
			}
			out, code := k.exec(t, who, args...)
			a[line] = fmt.Sprint("code ", code)
			if strings.Contains(line, "uid_map") || strings.Contains(line, "kernel/hostname") {
				a[line] += " " + strings.Join(strings.Fields(lastLine(out)), " ")
			}
			if strings.Contains(line, "future") {
				first, _, _ := strings.Cut(out, "\n")
				_, a[line+" says"], _ = strings.Cut(first, ": ")
			}
		}
		said[who] = a
	}
	wantSame(t, said[original], said[ours], nil)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// podmanScript does what podman does with a namespace that it has bound to a path: pasta is run as one that ends when
// it is configured; it ends with the path.
const podmanScript = `set -e
dir=$(mktemp -d); mount -t tmpfs t "$dir"; touch "$dir/ns"
unshare --net mount --bind /proc/self/ns/net "$dir/ns"
out=$("$@" --pid "$dir/pid" --netns "$dir/ns" 2>&1) || { echo "pasta: $? $out"; exit 1; }
printf %s "$out" >&2
nsenter --net="$dir/ns" ip -o address show scope global | grep -o '\<inet6*\>' | sort -u | tr '\n' ' '
pid=$(cat "$dir/pid")
kill -0 "$pid" && echo runs
umount "$dir/ns" 2>/dev/null || umount --lazy "$dir/ns"
rm "$dir/ns"
n=0; while grep -q '^State:.[RSD]' "/proc/$pid/status" 2>/dev/null; do n=$((n+1)); test "$n" -lt 1000; sleep 0.05; done
echo ended
`

// TestPastaPodman: the exact words of podman 5, and the life of a namespace at a path.
func TestPastaPodman(t *testing.T) {
	k := newPastaKit(t)
	script := filepath.Join(k.dir, "script")
	if err := os.WriteFile(script, []byte(podmanScript), 0o600); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields("--config-net --dns-forward 169.254.1.1 -t 18110-18110:80-80 -u none -T none -U none --no-map-gw --quiet")
	said := map[maker]answers{}
	for _, who := range makers {
		// The original is that of Debian 12, as Debian 13's stands in a root without mount(8); it has all but the last word.
		line := append([]string{"pasta"}, words...)
		if who == ours {
			line = append(append([]string{filepath.Join(k.dir, "pasta")}, words...), "--map-guest-addr", "169.254.1.2")
		}
		line = append([]string{"--user", "--map-root-user", "--mount", "sh", script}, line...)
		cmd := exec.CommandContext(rig.Within(t, 3*rig.Patience), "unshare", line...)
		var errs strings.Builder
		cmd.Stderr = &errs
		b, err := cmd.Output()
		if err != nil || who == ours && errs.Len() > 0 {
			t.Errorf("%s: %v: %s", who, err, errs.String())
		}
		said[who] = answers{"podman": string(b)}
	}
	wantSame(t, said[original], said[ours], nil)
}

// TestPesto: podman 6 changes the ports of a running pasta.
func TestPesto(t *testing.T) {
	k := newPastaKit(t)
	socket := filepath.Join(t.TempDir(), "pasta.sock")
	s := k.serve(t, ours, "--config-net", "--quiet", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "-c", socket)
	serveWhoami(t, s.Node, at(netip.IPv4Unspecified(), 80))
	const port = 18120
	pesto := func(args ...string) (string, error) {
		b, err := exec.CommandContext(rig.Within(t, rig.Patience), filepath.Join(k.dir, "pesto"), append(args, socket)...).CombinedOutput()
		return string(b), err
	}
	want := func(when, what string) {
		t.Helper()
		if got := askWhoami(t, k.r.X1, "tcp", at(rig.H4, port)); got != what {
			t.Errorf("%s: %s, want %s", when, got, what)
		}
	}
	want("at the start", "connection refused")
	spec := fmt.Sprintf("0.0.0.0/%d:%v/80", port, s.own(t, false))
	if out, err := pesto("--add", "-t", spec, "-u", spec); err != nil || out != "" {
		t.Fatalf("%v: %s", err, out)
	}
	want("added", "seen as "+rig.X1v4.String())
	if got := askWhoami(t, k.r.X1, "udp", at(rig.H4, port)); got != "seen as "+rig.X1v4.String() {
		t.Errorf("udp, added: %s", got)
	}
	if out, err := pesto(); err != nil || !strings.Contains(out, fmt.Sprintf("TCP [0.0.0.0]:%d  =>  %v:80", port, s.own(t, false))) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := pesto("--delete", "-t", spec); err != nil || out != "" {
		t.Fatalf("%v: %s", err, out)
	}
	want("deleted", "connection refused")
	busy := k.r.H.ListenTCP(t, at(rig.H4, port))
	if out, err := pesto("--add", "-t", fmt.Sprintf("203.0.113.1/%d:80", port)); err == nil || !strings.Contains(out, "Failed to bind port") {
		t.Errorf("a port in use: %v: %s", err, out)
	}
	busy.Close()
	s.end()
}

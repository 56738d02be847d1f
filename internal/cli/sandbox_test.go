package cli

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
)

// runningSandbox runs a sandbox with a private network in the background until the test ends, and waits until its
// command runs.
func runningSandbox(t *testing.T, flags ...string) {
	t.Helper()
	dir := t.TempDir()
	up, down := filepath.Join(dir, "up"), filepath.Join(dir, "down")
	for _, p := range []string{up, down} {
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan outcome, 1)
	go func() { // received from in the clean-up
		done <- invoke(t, append(append([]string{"run"}, flags...), "sh", "-c", `echo > "$0"; read x < "$1"; exit 5`, up, down)...)
	}()
	read := make(chan error, 1)
	go func() { // ends when the command writes, or when the clean-up does
		_, err := os.ReadFile(up)
		read <- err
	}()
	t.Cleanup(func() {
		if f, err := os.OpenFile(down, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
		if got := <-done; got.code != 5 {
			t.Errorf("the sandbox ended with %+v", got)
		}
	})
	select {
	case <-read:
	case got := <-done:
		done <- got
		if f, err := os.OpenFile(up, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
		t.Fatalf("the sandbox did not start: %+v", got)
	}
}

func TestSandboxFromOutside(t *testing.T) {
	runningSandbox(t, "--name", "web", "--publish", "127.0.0.1::80")

	// ps
	got := invoke(t, "ps")
	lines := strings.Split(got.out, "\n")
	if got.code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], "ID             NAME      COMMAND") || !strings.Contains(lines[1], "   web       ") ||
		!strings.Contains(lines[1], "   Up ") || !strings.HasSuffix(lines[1], "   private") || !strings.Contains(lines[1], "->80/tcp") {
		t.Errorf("ps: %+v", got)
	}
	if got := invoke(t, "ps", "-q"); len(got.out) != 13 {
		t.Errorf("ps -q: %+v", got)
	}
	if got := invoke(t, "ps", "--stats"); !strings.Contains(got.out, "runt=3") {
		t.Errorf("ps --stats: %+v", got)
	}
	if got := invoke(t, "ps", "--format", "{{.Name}} {{.Kind}} {{json .Addresses}} {{.Addresses}} {{join .Addresses \"+\"}} {{join .Command \" \"}}"); !strings.HasPrefix(got.out, `web run ["10.0.2.100","fd00::100"] 10.0.2.100,fd00::100 10.0.2.100+fd00::100 sh -c`) {
		t.Errorf("ps --format: %+v", got)
	}
	var row psRow
	if got := invoke(t, "ps", "--stats", "--format", "json"); json.Unmarshal([]byte(got.out), &row) != nil || row.Name != "web" || len(row.ID) != 12 || row.Stats == nil || row.Stats.UDPFlows != 7 || len(row.Ports) != 1 {
		t.Errorf("ps --format json: %+v", got)
	}
	for _, bad := range []string{"{{.Nope}}", "{{", "{{.ID | nope}}"} {
		if got := invoke(t, "ps", "--format", bad); got.code != shim.ExitFailure || got.stderr == "" {
			t.Errorf("ps --format %s: %+v", bad, got)
		}
	}

	// The name is taken.
	if got := invoke(t, "run", "--name", "web", "true"); got.code != shim.ExitFailure || !strings.Contains(got.stderr, "in use") {
		t.Errorf("second of the same name: %+v", got)
	}

	// port
	port := row.Ports[0].HostPort
	host := "127.0.0.1:" + strconv.Itoa(int(port))
	for _, args := range [][]string{{"web"}, {strconv.Itoa(row.PID)}, {strconv.Itoa(row.ShimPID)}} {
		if got := invoke(t, append([]string{"port", "ls"}, args...)...); got.out != "80/tcp -> "+host+"\n" {
			t.Errorf("port ls %v: %+v", args, got)
		}
	}
	for _, p := range []string{"80", "80/tcp"} {
		if got := invoke(t, "port", "ls", "web", p); got.out != host+"\n" {
			t.Errorf("port ls web %s: %+v", p, got)
		}
	}
	if got := invoke(t, "port", "ls", "web", "81"); got.code != exitError || !strings.Contains(got.stderr, "no public port 81 published for web") {
		t.Errorf("port ls web 81: %+v", got)
	}
	got = invoke(t, "port", "add", "web", "127.0.0.1::53/udp", "127.0.0.1::443")
	if n := strings.Count(got.out, "\n"); got.code != 0 || n != 2 || !strings.HasPrefix(got.out, "53/udp -> 127.0.0.1:") {
		t.Fatalf("port add: %+v", got)
	}
	added := strings.TrimSpace(strings.Split(got.out, "443/tcp -> 127.0.0.1:")[1])
	// One is in use: none is added.
	if got := invoke(t, "port", "add", "web", "127.0.0.1::9999", host+":1"); got.code != exitError || !strings.Contains(got.stderr, "already") && !strings.Contains(got.stderr, "in use") {
		t.Errorf("port add of a port in use: %+v", got)
	}
	if got := invoke(t, "port", "ls", "web"); strings.Contains(got.out, "9999") || strings.Count(got.out, "\n") != 3 {
		t.Errorf("after it: %+v", got)
	}
	if got := invoke(t, "port", "rm", "web", "127.0.0.1:"+added+":443", "1"); got.code != exitError {
		t.Errorf("port rm of one that is not there: %+v", got)
	}
	if got := invoke(t, "port", "rm", "web", added); got.code != 0 {
		t.Errorf("port rm: %+v", got)
	}
	if got := invoke(t, "port", "rm", "web", host+":80"); got.code != 0 {
		t.Errorf("port rm: %+v", got)
	}
	if got := invoke(t, "port", "ls", "web"); strings.Contains(got.out, "443") || strings.Count(got.out, "\n") != 1 {
		t.Errorf("after port rm: %+v", got)
	}
	if l, err := net.Listen("tcp4", host); err != nil {
		t.Errorf("the port is not free: %v", err)
	} else {
		l.Close()
	}
	for _, args := range [][]string{{"ls", "nobody"}, {"add", "nobody", "1:1"}, {"rm", "nobody", "1"}} {
		if got := invoke(t, append([]string{"port"}, args...)...); got.code != exitError || !strings.Contains(got.stderr, "no such sandbox") {
			t.Errorf("port %v: %+v", args, got)
		}
	}

	// completion
	if got := invoke(t, "__complete", "port", "ls", ""); !strings.HasPrefix(got.out, "web\tsh -c") {
		t.Errorf("completion: %+v", got)
	}
}

func TestNothingRuns(t *testing.T) {
	if got := invoke(t, "ps"); got.code != 0 || strings.Count(got.out, "\n") != 1 {
		t.Errorf("%+v", got)
	}
	if got := invoke(t, "ps", "--format", "json"); got.code != 0 || got.out != "" {
		t.Errorf("%+v", got)
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	witness := filepath.Join(t.TempDir(), "ran")
	got := invoke(t, "run", "-p", l.Addr().String()+":80", "touch", witness)
	if got.code != shim.ExitFailure || !strings.Contains(got.stderr, "already") && !strings.Contains(got.stderr, "in use") {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(witness); err == nil {
		t.Error("the command ran all the same")
	}
}

func TestParseBound(t *testing.T) {
	for in, want := range map[string]string{
		"8080": "tcp 8080 0", "8080/udp": "udp 8080 0", "8080:80": "tcp 8080 80", "published=8080,target=80,protocol=udp": "udp 8080 80",
	} {
		specs, err := parseBound(in)
		if err != nil || len(specs) != 1 {
			t.Errorf("%s: %v, %v", in, specs, err)
			continue
		}
		s := specs[0]
		if got := string(s.Proto) + " " + strconv.Itoa(int(s.HostPort)) + " " + strconv.Itoa(int(s.Port)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "x", "0", "70000", "80/sctp", "::80", "127.0.0.1::80"} {
		if specs, err := parseBound(in); err == nil {
			t.Errorf("%s: %v", in, specs)
		}
	}
}

func TestShowPorts(t *testing.T) {
	var specs []portfwd.Spec
	for _, p := range []string{"0.0.0.0:5000-5002:80-82", "[::]:5000:80", "127.0.0.1:53:53/udp", "9:9"} {
		ss, err := portfwd.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, ss...)
	}
	want := "0.0.0.0:5000-5002->80-82/tcp, [::]:5000->80/tcp, 127.0.0.1:53->53/udp, *:9->9/tcp"
	if got := showPorts(specs); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTable(t *testing.T) {
	got := table{{"NAME", "X"}, {"ä", "1"}, {"longer", "2"}}.String()
	if want := "NAME    X\nä       1\nlonger  2\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "now", time.Second: "1 second ago", 59 * time.Second: "59 seconds ago", 90 * time.Second: "1 minute ago",
		3 * time.Hour: "3 hours ago", 50 * time.Hour: "2 days ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("a\x1b[31m\tb"); got != "a [31m b" {
		t.Errorf("%q", got)
	}
	if got := shorten(strings.Repeat("ä", 40)); got != strings.Repeat("ä", 31)+"…" {
		t.Errorf("%q", got)
	}
}

func TestShowDrops(t *testing.T) {
	if got := showDrops(map[string]uint64{"b": 1, "a": 1, "c": 5}); got != "c=5 a=1 b=1" {
		t.Errorf("%q", got)
	}
	if got := showDrops(nil); got != "0" {
		t.Errorf("%q", got)
	}
}

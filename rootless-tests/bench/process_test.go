package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestParseStat(t *testing.T) {
	for _, row := range []struct {
		line string
		want float64
	}{
		{"7 (cat) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 1", 2},
		{"7 (a b) c) S 1 7 7 0 -1 4194304 1 2 3 4 0 1 9 9 20 0 1", 0.01},
	} {
		if got, err := parseStat([]byte(row.line)); err != nil || got != row.want {
			t.Errorf("parseStat(%q) = %v, %v; want %v", row.line, got, err, row.want)
		}
	}
	for _, bad := range []string{"", "7", "7 (cat) S 1 7 7", "7 (cat) S 1 7 7 0 -1 4194304 1 2 3 4 x y 9 9"} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) = %v", bad, got)
		}
	}
}

// TestProcessSees what /proc says of a real program.
func TestProcessSees(t *testing.T) {
	cmd := exec.Command("cat", "--", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	defer in.Close()
	if err := p.waitFor("cat", func() bool { return hasArgument(p.pid(), "--") }); err != nil {
		t.Fatal(err)
	}
	if pid, ok := descendant(os.Getpid(), "--"); !ok || pid != p.pid() {
		t.Errorf("found %d, %v; want %d", pid, ok, p.pid())
	}
	if b, err := residentBytes([]int{p.pid()}); err != nil || b <= 0 {
		t.Errorf("%v bytes resident, %v", b, err)
	}
	if s, err := cpuSeconds([]int{p.pid()}); err != nil || s < 0 {
		t.Errorf("%v s of CPU, %v", s, err)
	}
}

// TestWaitForTellsOfDeath: a program that ends instead of becoming ready is not waited for.
func TestWaitForTellsOfDeath(t *testing.T) {
	p, err := launch(exec.Command("sh", "-c", "echo well; echo broken >&2; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.waitFor("sh", func() bool { return false }); err == nil || p.messages() != "well\nbroken" || p.lastMessage() != "broken" {
		t.Errorf("waitFor = %v, messages %q", err, p.messages())
	}
}

//go:build !cgo

// Only a binary without cgo can enter the isolation (builtWithCgo), so the race detector sees none of its tests.

package confine

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is the ordinary user as whom the tests run a second time when they are started by root.
const nobody = 65534

const asUser = "USERNET_TEST_AS_USER"

// TestMain runs the tests as whoever started them and, when that is root, once more as an ordinary
// user. The binary is also the process that is confined: argv[1] selects that role.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == role {
		confinedMain(os.Args[2:])
		return
	}
	if len(os.Args) > 2 && os.Args[1] == landlockRole {
		landlockMain(os.Args[2])
		return
	}
	code := m.Run()
	if code == 0 && os.Geteuid() == 0 && os.Getenv(asUser) == "" {
		code = runAsNobody()
	}
	os.Exit(code)
}

func runAsNobody() int {
	var args []string
	for _, a := range os.Args[1:] {
		// Files and measurements belong to the first run.
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch name {
		case "test.testlogfile", "test.coverprofile", "test.gocoverdir", "test.bench", "test.fuzz", "test.fuzzcachedir":
		default:
			args = append(args, a)
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asUser+"=1", "TMPDIR=/tmp")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run again as an ordinary user:", err)
		return 1
	}
	return 0
}

const role = "__confined"

// The descriptors of a confined test process.
const (
	questionFD = 3
	answerFD   = 4
	keepFDs    = 5
)

// confined is a process in the isolation under test.
type confined struct {
	*os.Process
	Report Report
	ask    *os.File
	answer *json.Decoder
}

// startConfined starts a process that has entered the isolation. The flags are "kill", to die of a denied
// call, and "plain", to be started without namespaces as on a host that refuses them.
func startConfined(t testing.TB, flags ...string) *confined {
	t.Helper()
	questionR, questionW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answerR, answerW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Left open in this test binary on purpose: a descriptor that a careless parent hands on.
	stray, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"confined", role}, flags...)
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, questionR, answerW, stray}, Env: []string{"GOMAXPROCS=1"}}
	var p *os.Process
	if len(flags) > 0 && flags[0] == "plain" {
		p, err = os.StartProcess("/proc/self/exe", argv, attr)
	} else {
		p, err = Start("/proc/self/exe", argv, attr)
	}
	if err != nil {
		t.Fatal(err)
	}
	questionR.Close()
	answerW.Close()
	stray.Close()
	answerR.SetReadDeadline(time.Now().Add(10 * time.Second))
	c := &confined{Process: p, ask: questionW, answer: json.NewDecoder(answerR)}
	t.Cleanup(func() {
		questionW.Close()
		p.Kill()
		p.Wait()
		answerR.Close()
	})
	if err := c.answer.Decode(&c.Report); err != nil {
		t.Fatalf("confined process: %v", err)
	}
	return c
}

// do has the process run a probe by name; see probes.
func (c *confined) do(t testing.TB, probe string) map[string]string {
	t.Helper()
	if _, err := fmt.Fprintln(c.ask, probe); err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := c.answer.Decode(&m); err != nil {
		state, _ := c.Wait()
		t.Fatalf("probe %s: %v; the process: %v", probe, err, state)
	}
	return m
}

// confinedMain is the life of the process: enter, report, probe until told to end.
func confinedMain(flags []string) {
	r, err := Enter(Options{Keep: keepFDs, KillOnDenied: len(flags) > 0 && flags[len(flags)-1] == "kill"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.NewFile(answerFD, "answers"))
	if err := out.Encode(r); err != nil {
		os.Exit(1)
	}
	in := os.NewFile(questionFD, "questions")
	for {
		var probe string
		if _, err := fmt.Fscanln(in, &probe); err != nil {
			return
		}
		if err := out.Encode(probes[probe]()); err != nil {
			return
		}
	}
}

const landlockRole = "__landlocked"

// landlockMain restricts itself by Landlock alone and says what dialling an abstract socket gives.
func landlockMain(name string) {
	before, err := net.Dial("unix", name)
	if err != nil {
		fmt.Println("before Landlock:", err)
		return
	}
	before.Close()
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := restrictPaths(); err != nil {
		fmt.Println(err)
		return
	}
	_, err = net.Dial("unix", name)
	fmt.Println(text(err))
}

func runRestricted(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("/proc/self/exe", landlockRole, name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

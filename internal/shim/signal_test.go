package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trap is a command that says which signals it gets, and ends at the second SIGTERM.
const trap = `n=0
for s in HUP INT QUIT USR1 USR2 ALRM WINCH CONT; do trap "echo got $s" $s; done
trap 'n=$((n+1)); echo got TERM $n; [ $n = 2 ] && exit 3' TERM
echo ready
while :; do read x || sleep 1000 & wait $!; done`

// TestForwarding: without a terminal, every signal to the shim reaches CMD, and the shim lives on.
func TestForwarding(t *testing.T) {
	s := startWith(t, testConfig{Command: sh(trap)}, `exec setsid -w "$@"`)
	s.line("ready")
	p := s.Process.Pid
	if c := descendants(p); c[0].ppid == p && len(c) > 2 { // setsid -w forked
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p)); strings.HasPrefix(string(b), "setsid") {
			p = c[0].pid
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1,
		syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGTERM} {
		kill(t, p, sig)
		s.line("got " + strings.TrimPrefix(unix.SignalName(sig), "SIG"))
	}
	kill(t, p, syscall.SIGTERM)
	if code := s.code(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

// TestInitSurvives: init takes what is sent to its process group and does not hand it on, as CMD has it already.
func TestInitSurvives(t *testing.T) {
	s := start(t, testConfig{Command: sh(trap)})
	s.line("ready")
	in := initOf(t, s)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1} {
		kill(t, in, sig)
	}
	s.signal(syscall.SIGUSR2)
	if got := s.line("got"); got != "got USR2" {
		t.Errorf("%q, want USR2 only", got)
	}
}

// TestIgnoredStaysIgnored: nohup counts for CMD.
func TestIgnoredStaysIgnored(t *testing.T) {
	s := startWith(t, testConfig{Command: sh(`echo ready; grep SigIgn /proc/self/status; read x`)}, `trap "" HUP; exec "$@"`)
	s.line("ready")
	if got := s.line("SigIgn"); !strings.HasSuffix(got, "1") {
		t.Errorf("SIGHUP is not ignored: %s", got)
	}
}

// TestNothingIgnored: a shell's & without job control ignores SIGINT; otherwise CMD has all at default.
func TestNothingIgnored(t *testing.T) {
	_, out, _ := run(t, testConfig{Command: sh("grep -E 'SigIgn|SigBlk|SigCgt' /proc/self/status")})
	_, want, _ := run(t, testConfig{Command: sh("grep -E 'SigIgn|SigBlk|SigCgt' /proc/self/status"), Network: NetworkHost})
	if out != want || !strings.Contains(out, "SigBlk:\t0000000000000000") {
		t.Errorf("signals of CMD:\n%s", out)
	}
}

// terminal is a pty with a shell and a sandbox as its job.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
}

func openTerminal(t *testing.T, tc testConfig) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	b, err := json.Marshal(tc)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t), shellRole, shimRole, string(b))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		master.Close() // hangs up what is left
	})
	return &terminal{t, master, cmd}
}

func (x *terminal) typed(s string) {
	x.t.Helper()
	if _, err := x.master.WriteString(s); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) line(want string) string {
	x.t.Helper()
	return lineFrom(x.t, x.master, want)
}

// allStopped waits until the kernel has stopped every process of the job. One that is not there yet would
// take what is typed for the shell.
func (x *terminal) allStopped() {
	x.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, p := range descendants(x.cmd.Process.Pid) {
		for {
			state, _, ok := readStat(p.pid)
			if !ok || state == 'T' {
				break
			}
			if time.Now().After(deadline) {
				x.t.Fatalf("process %d is in state %c, not stopped", p.pid, state)
			}
			runtime.Gosched()
		}
	}
}

const (
	ctrlC         = "\x03"
	ctrlZ         = "\x1a"
	ctrlBackslash = "\x1c"
)

// TestTerminalInterrupt: ^C and ^\ reach CMD once each; the shim goes on and gives CMD's code.
func TestTerminalInterrupt(t *testing.T) {
	x := openTerminal(t, testConfig{Command: sh(`n=0
		trap 'n=$((n+1)); echo interrupt $n' INT
		trap 'echo quit' QUIT
		trap 'echo end $n; exit 5' USR1
		echo ready
		while :; do sleep 1000 & wait $!; done`)})
	x.line("ready")
	x.typed(ctrlC)
	x.line("interrupt 1")
	x.typed(ctrlBackslash)
	x.line("quit")
	x.typed(ctrlC)
	x.line("interrupt 2")
	// Forwarded by the shim: had it forwarded a SIGINT, that would have come before.
	sh := descendants(x.cmd.Process.Pid)[0].pid
	kill(t, sh, syscall.SIGUSR1)
	x.line("end 2")
	x.line("job exited 5")
}

// TestTerminalInterruptEnds: the default action ends CMD, and the code says so.
func TestTerminalInterruptEnds(t *testing.T) {
	x := openTerminal(t, testConfig{Command: []string{"sh", "-c", "echo ready; exec sleep 1000"}})
	x.line("ready")
	x.typed(ctrlC)
	x.line("job exited 130")
}

// TestTerminalStop: ^Z stops the job as one, fg resumes it.
func TestTerminalStop(t *testing.T) {
	x := openTerminal(t, testConfig{Command: sh(`echo ready; while read x; do echo "read $x"; [ "$x" = end ] && exit 4; done`)})
	x.line("ready")
	for i := range 3 {
		x.typed(ctrlZ)
		x.line("job stopped 20")
		x.allStopped()
		x.typed("fg\n")
		x.typed(fmt.Sprintf("line%d\n", i))
		x.line(fmt.Sprintf("read line%d", i))
	}
	x.typed("end\n")
	x.line("job exited 4")
}

// TestSelfStop: when CMD alone stops, the shell sees its job stop.
func TestSelfStop(t *testing.T) {
	for _, sig := range []string{"TSTP", "STOP"} {
		t.Run(sig, func(t *testing.T) {
			x := openTerminal(t, testConfig{Command: sh(`echo ready; kill -` + sig + ` $$; echo resumed; exit 6`)})
			x.line("ready")
			x.line("job stopped")
			x.typed("fg\n")
			x.line("resumed")
			x.line("job exited 6")
		})
	}
}

// TestSelfStopResumedOutside: the shim resumes with CMD, whoever resumes it.
func TestSelfStopResumedOutside(t *testing.T) {
	x := openTerminal(t, testConfig{Command: sh(`echo ready $$; kill -STOP $$; echo resumed; exit 6`)})
	var pid int
	if _, err := fmt.Sscanf(x.line("ready"), "ready %d", &pid); err != nil {
		t.Fatal(err)
	}
	x.line("job stopped")
	kill(t, pid, syscall.SIGCONT)
	x.line("resumed")
	x.typed("fg\n")
	x.line("job exited 6")
}

// TestHangupOfTerminal: the terminal goes, and so does the sandbox.
func TestHangupOfTerminal(t *testing.T) {
	mark := newMark(t)
	x := openTerminal(t, testConfig{Command: sh("export " + mark + "=1; sh -c 'echo ready; exec sleep 1000'")})
	x.line("ready")
	pids := waitMarked(t, mark, 1)
	for _, p := range descendants(x.cmd.Process.Pid) {
		pids = append(pids, p.pid)
	}
	x.master.Close()
	waitGone(t, pids)
}

// TestSignalWhileStarting ends a sandbox whose network does not come up.
func TestSignalWhileStarting(t *testing.T) {
	s := start(t, testConfig{Command: []string{"true"}, Network: NetworkPrivate, FailStart: "wait"})
	s.line("starting")
	in := initOf(t, s)
	s.signal(syscall.SIGTERM)
	if code := s.code(); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
	waitGone(t, []int{in})
}

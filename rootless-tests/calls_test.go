package rootlesstests

// What a stream costs in system calls shows whether bytes move in large units. Time says so too, but a busy machine
// makes all times longer. It does not make more calls of the same bytes: who comes late finds more to move at once.
// Calls that only wait or wake are another matter, how many there are is the schedulers' doing; they are not counted.

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// scheduling are the calls that wait for something to do, and those by which Go's runtime wakes and interrupts threads.
var scheduling = []string{
	"epoll_pwait", "epoll_wait", "futex", "nanosleep", "clock_nanosleep", "sched_yield", "restart_syscall",
	"getpid", "tgkill", "rt_sigreturn",
}

// callsOf counts the system calls that a process makes while do runs, by name. strace must not hold the process up
// before or after; it does during.
func callsOf(t *testing.T, r *rig.Rig, pid int, do func()) map[string]int {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var said proctest.Output
	var reader sync.WaitGroup
	reader.Go(func() {
		_, _ = io.Copy(&said, read) // ends with strace
		read.Close()
	})
	defer reader.Wait()
	strace, err := r.H.Start(t.Context(), nil, nil, write, "strace", "-f", "-c", "-U", "calls,name", "-p", strconv.Itoa(pid))
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer strace.Kill()
	// It says so when it has all threads.
	rig.WaitFor(t, rig.Patience, "strace to attach", func() bool { return strings.Contains(said.String(), "attached") })
	do()
	r.H.Run(t, "sh", "-c", fmt.Sprintf("kill -INT %d", strace.PID))
	if _, err := strace.Wait(); err != nil {
		t.Fatal(err)
	}
	reader.Wait()
	calls := map[string]int{}
	for line := range strings.Lines(said.String()) {
		var n int
		var name string
		if _, err := fmt.Sscan(line, &n, &name); err == nil && name != "total" {
			calls[name] = n
		}
	}
	if len(calls) == 0 {
		t.Fatalf("strace counted nothing: %s", said.String())
	}
	return calls
}

// TestSystemCallsPerMiB bounds what the datapath does for a mebibyte of one stream at MTU 1500, at three times what
// was counted. Were frames of 1500 bytes read and written one by one, it would be 700 calls for either.
func TestSystemCallsPerMiB(t *testing.T) {
	r := rig.Start(t)
	sb := r.Run(t)
	const size = 32 << 20
	upload := serveTCP(t, r.X1, rig.X1v4, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		_, _ = c.Write([]byte{1}) // all is there; the client sees what goes wrong
	})
	download := serveTCP(t, r.X1, rig.X1v4, func(c *net.TCPConn) { _, _ = c.Write(make([]byte, size)) })
	for _, d := range []struct {
		name string
		most float64 // calls per MiB
		move func() error
	}{
		// Counted: 19 reads of the TAP, 4 writes to the socket, 2 of ACKs.
		{"up", 70, func() error {
			c := sb.DialTCP(t, upload)
			if _, err := c.Write(make([]byte, size)); err != nil {
				return err
			}
			if err := c.CloseWrite(); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, 1))
			return err
		}},
		// Counted: 17 reads of the socket and 20 questions how much there is, 17 to 33 writes to the TAP, 8 to 45 reads of ACKs.
		{"down", 330, func() error {
			_, err := io.CopyN(io.Discard, sb.DialTCP(t, download), size)
			return err
		}},
	} {
		var failed error
		calls := callsOf(t, r, sb.Datapath(t), func() { failed = d.move() })
		if failed != nil {
			t.Fatalf("%s: %v", d.name, failed)
		}
		t.Logf("%s: %v", d.name, calls)
		for _, name := range scheduling {
			delete(calls, name)
		}
		var all int
		for _, n := range calls {
			all += n
		}
		if perMiB := float64(all) / (size >> 20); perMiB > d.most {
			t.Errorf("%s: %.0f system calls per MiB, at most %.0f were to be: %v", d.name, perMiB, d.most, calls)
		}
	}
}

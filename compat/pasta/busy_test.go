package pasta

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/portfwd"
)

// A port in use is asked for again, for a while.
func TestUntilFree(t *testing.T) {
	busy := fmt.Errorf("publish: %w", syscall.EADDRINUSE)
	other := errors.New("other")
	for _, tt := range []struct {
		name     string
		freeAt   time.Duration // the pasta before has ended
		then     error
		want     error
		taken    bool
		maxTries int
	}{
		{"free", 0, nil, nil, false, 1},
		{"free soon", time.Second, nil, nil, false, 25},
		{"another error", 0, other, other, false, 1},
		{"another error later", time.Second, other, other, false, 25},
		{"never", time.Hour, nil, syscall.EADDRINUSE, false, 110},
		{"another program's", time.Second, nil, syscall.EADDRINUSE, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				err := untilFree(func() error {
					tries++
					if time.Since(began) < tt.freeAt {
						return busy
					}
					return tt.then
				}, func(error) bool { return tt.taken })
				if !errors.Is(err, tt.want) || tries > tt.maxTries {
					t.Errorf("%v after %d tries, want %v after %d at most", err, tries, tt.want, tt.maxTries)
				}
			})
		})
	}
}

// holderEnv makes the test binary a process that does nothing until its standard input ends.
const holderEnv = "USERNET_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holderEnv) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A port stays taken while a process has it that does not end. A namespace of its own: where sockets come and go
// meanwhile the kernel's table may leave one out.
func TestStaysTaken(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	busy := &portfwd.BindError{Spec: portfwd.Spec{Proto: portfwd.TCP, HostIP: at.Addr(), HostPort: at.Port()}, Err: syscall.EADDRINUSE}
	if !staysTaken(busy) {
		t.Error("free soon, although the test has the port")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if staysTaken(syscall.EADDRINUSE) {
		t.Error("of an error that names no port")
	}
}

// A pasta ends when its namespace is gone; nobody else does.
func TestEnds(t *testing.T) {
	const own = "/proc/self/exe"
	for _, tt := range []struct {
		name, program string
		args          []string
		want          bool
	}{
		{"another program", "cat", nil, false},
		{"a namespace that is there", own, []string{"pasta", "--netns", "/proc/self/ns/net"}, false},
		{"a process that is there", own, []string{"pasta", fmt.Sprint(os.Getpid())}, false},
		{"a command", own, []string{"pasta", "--", "true"}, false},
		{"a namespace that is gone", own, []string{"pasta", "--config-net", "--netns", "/nonexistent/ns"}, true},
		{"a namespace that is gone, by a relative path", own, []string{"pasta", "--netns", "nonexistent"}, true},
		{"a namespace that was unmounted", own, []string{"pasta", "--netns", "/dev/null"}, true},
		{"what pasta does not understand", own, []string{"pasta", "--nonsense"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(tt.program)
			cmd.Args, cmd.Env = tt.args, append(os.Environ(), holderEnv+"=1")
			if tt.program != own {
				cmd.Args = []string{tt.program}
			}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			awaitArgs(t, cmd.Process.Pid)
			if got := ends(fmt.Sprintf("/proc/%d", cmd.Process.Pid)); got != tt.want {
				t.Errorf("ends: %v", got)
			}
			if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
				t.Fatal(err)
			}
			if !ends(fmt.Sprintf("/proc/%d", cmd.Process.Pid)) {
				t.Error("a process that has ended has not")
			}
		})
	}
}

// awaitArgs waits until a process that was just started has its arguments: the kernel tells that it has executed the program before it
// has written them.
func awaitArgs(t *testing.T, pid int) {
	t.Helper()
	const patience = 10 * time.Second
	for began := time.Now(); time.Since(began) < patience; runtime.Gosched() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			t.Fatal(err)
		}
		if len(line) > 0 {
			return
		}
	}
	t.Fatalf("process %d has no arguments after %v", pid, patience)
}

func TestSocketsAt(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: broken
`
	for _, tt := range []struct {
		port    uint16
		own     string
		foreign bool
	}{{8080, "map[4711:true]", false}, {80, "map[]", true}, {81, "map[]", false}} {
		own := map[string]bool{}
		if got := socketsAt(strings.NewReader(table), tt.port, 1000, own); got != tt.foreign || fmt.Sprint(own) != tt.own {
			t.Errorf("port %d: %v, %v", tt.port, got, own)
		}
	}
}

package portfwd

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestAcceptBacksOff is RX-07 with a clock: accept that fails is tried again after 5 ms, then twice as
// long, up to 1 s, and starts over once it worked.
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		s := newTCPServer(NewForwarder(Config{}), Spec{Proto: TCP, Port: 80}, both, nil)
		s.accept = func() (*net.TCPConn, error) {
			at = append(at, time.Since(start))
			if len(at) == 12 {
				return nil, net.ErrClosed
			}
			return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		s.run(t.Context())
		step := backoffMin
		for i := 1; i < len(at); i++ {
			if at[i]-at[i-1] != step {
				t.Errorf("try %d after %v, want %v", i, at[i]-at[i-1], step)
			}
			step = min(2*step, backoffMax)
		}
		// Stopping does not wait for the pause to end.
		ctx, cancel := context.WithCancel(t.Context())
		s.accept = func() (*net.TCPConn, error) { cancel(); return nil, syscall.ENFILE }
		before := time.Now()
		s.run(ctx)
		if d := time.Since(before); d != 0 {
			t.Errorf("stopped after %v", d)
		}
	})
}

const childEnv = "PORTFWD_TEST_EXHAUSTED"

// TestAcceptWithoutDescriptors is RX-07 for real, in a process of its own that has no descriptor
// left: it uses next to no CPU meanwhile, and serves the waiting client once it has one.
func TestAcceptWithoutDescriptors(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	line := func() string {
		lines.Scan()
		return lines.Text()
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(line(), "listening "))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	if got := line(); got != "failing" {
		t.Fatalf("child says %q, want it to run out of descriptors", got)
	}
	var cpu time.Duration
	if _, err := fmt.Sscanf(line(), "cpu %d", &cpu); err != nil || cpu > 50*time.Millisecond {
		t.Errorf("%v of CPU in one second without descriptors (%v), want under 5 %%", cpu, err)
	}
	fmt.Fprintln(in, "go on")
	if got, err := bufio.NewReader(conn).ReadString('\n'); got != "hello\n" {
		t.Errorf("echo after recovery: %q, %v", got, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// exhaustedChild publishes a port, gives up its descriptors, measures, and recovers when told.
func exhaustedChild() int {
	failing := make(chan struct{}, 16)
	fw := NewForwarder(Config{Dialer: &memDialer{serve: echo}, Gateway4: gateway4, Gateway6: gateway6})
	ls, err := Listen([]Spec{{Proto: TCP, HostIP: addr("127.0.0.1"), Port: 80}}, false)
	if err != nil {
		return 1
	}
	ln, err := net.FileListener(ls[0].File)
	if err != nil {
		return 1
	}
	srv := newTCPServer(fw, ls[0].Spec, both, ln.(*net.TCPListener))
	accept := srv.accept
	srv.accept = func() (*net.TCPConn, error) {
		c, err := accept()
		if err != nil {
			select {
			case failing <- struct{}{}:
			default:
			}
		}
		return c, err
	}
	used, err := unix.FcntlInt(0, unix.F_DUPFD, 3) // the lowest free one is where the limit goes
	if err != nil {
		return 1
	}
	unix.Close(used)
	var limit, old unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
	limit = old
	limit.Cur = uint64(used)
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, (*syscall.Rlimit)(&limit)); err != nil {
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	fw.wg.Go(func() { srv.run(ctx) })
	fmt.Println("listening", ln.Addr())
	for range 6 {
		<-failing // the pauses before these were 5 to 80 ms
	}
	fmt.Println("failing")
	before := cpuTime()
	<-time.After(time.Second)
	fmt.Println("cpu", int64(cpuTime()-before))
	bufio.NewReader(os.Stdin).ReadString('\n')
	syscall.Setrlimit(unix.RLIMIT_NOFILE, (*syscall.Rlimit)(&old))
	bufio.NewReader(os.Stdin).ReadString('\n') // until the test is done
	cancel()
	ln.Close()
	fw.wg.Wait()
	return 0
}

func cpuTime() time.Duration {
	var r unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

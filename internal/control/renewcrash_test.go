package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/spec"
)

// renewingMain is a Control at a socket whose process is replaced again and again, until it is killed. It writes a line
// for each.
func renewingMain(socket string) error {
	c, err := Start(context.Background(), Config{
		DNS:        DNS{ResolvConf: os.DevNull},
		Datapath:   datapath.Config{Args: []string{"usernet", datapathRole}, Socket: socket},
		renewCrowd: 1, renewDelay: time.Nanosecond,
	})
	if err != nil {
		return err
	}
	dev, _, err := sys.Socketpair()
	if err != nil {
		return err
	}
	if err := c.Ready(context.Background()); err != nil {
		return err
	}
	for pid := c.Status().PID; ; pid = c.Status().PID {
		if err := errors.Join(c.AddNetwork(spec.Network{ID: "n", Name: "n"}, nil), c.Attach("n", spec.Endpoint{ID: "e"}, dev, tapInfo),
			c.Detach("n", "e"), c.RemoveNetwork("n")); err != nil {
			return err
		}
		for c.Status().PID == pid {
			if err := c.do(func(*supervisor) error { return nil }); err != nil {
				return err
			}
		}
		fmt.Println(c.Status().PID)
	}
}

// A Control that is killed at whatever moment of a renewal leaves no process behind, and nothing that keeps the next one
// from its socket.
func TestKilledWhileRenewing(t *testing.T) {
	// What a killed Control leaves becomes a child of this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	socket := socketPath(t)
	for round := range 4 {
		cmd := exec.Command("/proc/self/exe", renewingRole, socket)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + round {
			if !lines.Scan() {
				t.Error("it ended by itself")
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		next := newRig(t, at(socket))
		next.running()
		next.add("n")
		next.attach("n", "e")
		if got := next.holds("n"); got["endpoint e []"] != 1 {
			t.Errorf("it holds %v", got)
		}
		if err := errors.Join(next.Detach("n", "e"), next.RemoveNetwork("n"), next.Close()); err != nil {
			t.Error(err)
		}
		noChildren(t)
	}
}

// noChildren waits until this process has no child any more.
func noChildren(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; <-tick.C {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return
		case pid == 0 && time.Now().After(limit):
			t.Fatal("a process is left")
		}
	}
}

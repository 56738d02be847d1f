package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/usernet/usernet/internal/sys"
)

// Node is somewhere in the network: a namespace of the rig, or a sandbox. Its methods make sockets and run
// commands there. It is safe for concurrent use.
type Node struct {
	Name string

	mu     sync.Mutex // one request at a time
	socket *os.File
}

// newNode speaks to the node process at the other end of socket, which becomes the Node's.
func newNode(name string, socket *os.File) *Node { return &Node{Name: name, socket: socket} }

// Close ends the node process and every command it runs. Sockets made there go on.
func (n *Node) Close() error { return n.socket.Close() }

// ask sends a request and waits for the answer, with a file when it is a socket.
func (n *Node) ask(q request, files ...*os.File) (answer, *os.File, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return answer{}, nil, err
	}
	rc, err := n.socket.SyscallConn()
	if err != nil {
		return answer{}, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := sys.SendMessage(rc, b, files...); err != nil {
		return answer{}, nil, fmt.Errorf("ask node %s: %w", n.Name, err)
	}
	buf := make([]byte, maxMessage)
	k, got, err := sys.RecvMessage(rc, buf)
	if err != nil {
		return answer{}, nil, fmt.Errorf("ask node %s: %w", n.Name, err)
	}
	var a answer
	if err := json.Unmarshal(buf[:k], &a); err != nil {
		return answer{}, nil, fmt.Errorf("read answer of node %s: %w", n.Name, err)
	}
	var f *os.File
	if len(got) > 0 {
		f = got[0]
	}
	return a, f, a.err()
}

// Socket makes a socket in the node's namespaces, non-blocking.
func (n *Node) Socket(domain, typ, proto int) (*os.File, error) {
	_, f, err := n.ask(request{Op: opSocket, Args: []int{domain, typ, proto}})
	if err == nil && f == nil {
		err = errors.New("no descriptor came")
	}
	if err != nil {
		return nil, fmt.Errorf("make socket in %s: %w", n.Name, err)
	}
	return f, nil
}

// Cmd is a command running in a node.
type Cmd struct {
	PID      int
	name     string
	lifeline *os.File
	done     chan struct{}
	status   syscall.WaitStatus
	err      error
}

// Start runs a command in the node. Nil files are /dev/null. The command is killed, with its process group,
// when ctx ends.
func (n *Node) Start(ctx context.Context, stdin, stdout, stderr *os.File, argv ...string) (*Cmd, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	std := []*os.File{stdin, stdout, stderr}
	for i, f := range std {
		if f == nil {
			std[i] = null
		}
	}
	mine, theirs, err := sys.Socketpair()
	if err != nil {
		return nil, err
	}
	a, _, err := n.ask(request{Op: opRun, Argv: argv}, append(std, theirs)...)
	theirs.Close()
	if err != nil {
		mine.Close()
		return nil, fmt.Errorf("run %s in %s: %w", argv[0], n.Name, err)
	}
	c := &Cmd{PID: a.PID, name: n.Name + ": " + strings.Join(argv, " "), lifeline: mine, done: make(chan struct{})}
	go c.wait(ctx)
	return c, nil
}

// wait is the goroutine of a command: it ends with the command or with ctx.
func (c *Cmd) wait(ctx context.Context) {
	defer close(c.done)
	defer context.AfterFunc(ctx, func() { c.lifeline.Close() })()
	defer c.lifeline.Close()
	rc, err := c.lifeline.SyscallConn()
	if err != nil {
		c.err = err
		return
	}
	buf := make([]byte, 32)
	n, _, err := sys.RecvMessage(rc, buf)
	if err != nil {
		c.err = errors.Join(err, ctx.Err())
		return
	}
	ws, err := strconv.ParseUint(string(buf[:n]), 10, 32)
	c.status, c.err = syscall.WaitStatus(ws), err
}

// Wait waits for the command's end and returns its exit code, 128+n when signal n ended it.
func (c *Cmd) Wait() (int, error) {
	<-c.done
	switch {
	case c.err != nil:
		return -1, fmt.Errorf("wait for %s: %w", c.name, c.err)
	case c.status.Signaled():
		return 128 + int(c.status.Signal()), nil
	}
	return c.status.ExitStatus(), nil
}

// Kill ends the command and its group, and waits.
func (c *Cmd) Kill() {
	c.lifeline.Close()
	<-c.done
}

// Exec runs a command to its end with text as its standard input and returns what it wrote to both of its
// outputs. An exit code that is not 0 is no error.
func (n *Node) Exec(ctx context.Context, text string, argv ...string) (string, int, error) {
	in, inw, err := os.Pipe()
	if err != nil {
		return "", -1, err
	}
	outr, out, err := os.Pipe()
	if err != nil {
		in.Close()
		inw.Close()
		return "", -1, err
	}
	var wg sync.WaitGroup
	var b bytes.Buffer
	wg.Go(func() {
		_, _ = io.WriteString(inw, text) // a command need not read all
		inw.Close()
	})
	c, err := n.Start(ctx, in, out, out, argv...)
	in.Close()
	out.Close()
	wg.Go(func() {
		_, _ = b.ReadFrom(outr) // ends with the last holder of the other end
		outr.Close()
	})
	code := -1
	if err == nil {
		code, err = c.Wait()
	}
	wg.Wait()
	return b.String(), code, err
}

// Run runs a command that must succeed and returns what it wrote.
func (n *Node) Run(t testing.TB, argv ...string) string {
	t.Helper()
	out, code, err := n.Exec(t.Context(), "", argv...)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("%s: %s: exit code %d\n%s", n.Name, strings.Join(argv, " "), code, out)
	}
	return out
}

// RunUntilEnd runs a command now and another when the test ends, both of which must succeed. It is for what
// a test changes in the rig; such a test is not parallel.
func (n *Node) RunUntilEnd(t testing.TB, argv, undo []string) {
	t.Helper()
	n.Run(t, argv...)
	t.Cleanup(func() {
		if out, code, err := n.Exec(context.Background(), "", undo...); err != nil || code != 0 {
			t.Errorf("%s: %s: exit code %d, %v\n%s", n.Name, strings.Join(undo, " "), code, err, out)
		}
	})
}

// SetSysctl sets a sysctl of the node's network namespace until the test ends.
func (n *Node) SetSysctl(t testing.TB, key, value string) {
	t.Helper()
	old := strings.TrimSpace(n.Run(t, "sysctl", "-n", key))
	n.RunUntilEnd(t, []string{"sysctl", "-qw", key + "=" + value}, []string{"sysctl", "-qw", key + "=" + old})
}

// SetMTU sets the MTU of a device of the node until the test ends.
func (n *Node) SetMTU(t testing.TB, dev string, mtu, back int) {
	t.Helper()
	n.RunUntilEnd(t, []string{"ip", "link", "set", dev, "mtu", strconv.Itoa(mtu)},
		[]string{"ip", "link", "set", dev, "mtu", strconv.Itoa(back)})
}

// ReadFile returns a file as root sees it; for /proc of processes that do not let themselves be read.
func (n *Node) ReadFile(t testing.TB, path string) string {
	t.Helper()
	return n.Run(t, "cat", path)
}

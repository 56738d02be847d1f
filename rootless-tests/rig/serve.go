package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// The protocol of a node: one request, one answer, in turn; each a JSON message.
//
// A command outlives the answer to its request. Its standard descriptors come with the request, and a
// fourth one, the lifeline: the node writes the exit there, and kills the command when the other end of
// the lifeline is closed.

// request asks a node for a socket or a command.
type request struct {
	Op   operation `json:"op"`
	Args []int     `json:"args,omitempty"` // of socket(2)
	Argv []string  `json:"argv,omitempty"`
	Env  []string  `json:"env,omitempty"` // beyond the node's own
	Dir  string    `json:"dir,omitempty"`
}

type operation string

const (
	opSocket operation = "socket"
	opRun    operation = "run"
)

// answer is what a node says to a request; a socket comes with it.
type answer struct {
	PID   int    `json:"pid,omitempty"`
	Errno int    `json:"errno,omitempty"`
	Error string `json:"error,omitempty"`
}

func (a *answer) err() error {
	switch {
	case a.Errno != 0:
		return fmt.Errorf("%s: %w", a.Error, syscall.Errno(a.Errno))
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

func failed(doing string, err error) answer {
	var no syscall.Errno
	if errors.As(err, &no) {
		return answer{Error: doing, Errno: int(no)}
	}
	return answer{Error: fmt.Sprintf("%s: %v", doing, err)}
}

// serveNode is the life of a node process: it answers until the socket's other end is closed.
func serveNode(socket *os.File) error {
	rc, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var commands sync.WaitGroup
	defer commands.Wait()
	buf := make([]byte, maxMessage)
	for {
		n, files, err := sys.RecvMessage(rc, buf)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		var q request
		if err := json.Unmarshal(buf[:n], &q); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		a, f := q.serve(&commands, files)
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		var with []*os.File
		if f != nil {
			with = append(with, f)
		}
		err = sys.SendMessage(rc, b, with...)
		if f != nil {
			f.Close()
		}
		if err != nil {
			return err
		}
	}
}

// maxMessage bounds a request: a command with its environment.
const maxMessage = 64 << 10

// serve acts on one request. The file is the caller's to close.
func (q *request) serve(commands *sync.WaitGroup, files []*os.File) (answer, *os.File) {
	switch {
	case q.Op == opSocket && len(q.Args) == 3:
		fd, err := unix.Socket(q.Args[0], q.Args[1]|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, q.Args[2])
		if err != nil {
			return failed("make socket", err), nil
		}
		return answer{}, os.NewFile(uintptr(fd), "socket")
	case q.Op == opRun && len(files) == 4 && len(q.Argv) > 0:
		return q.run(commands, files), nil
	}
	for _, f := range files {
		f.Close()
	}
	return answer{Error: fmt.Sprintf("request %q with %d arguments and %d descriptors is unknown", q.Op, len(q.Args), len(files))}, nil
}

// run starts a command on files: its standard descriptors and the lifeline.
func (q *request) run(commands *sync.WaitGroup, files []*os.File) answer {
	lifeline := files[3]
	c := exec.Command(q.Argv[0], q.Argv[1:]...)
	c.Env, c.Dir = append(os.Environ(), q.Env...), q.Dir
	c.Stdin, c.Stdout, c.Stderr = files[0], files[1], files[2]
	// A group of its own, so that all of it can be ended.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := c.Start()
	for _, f := range files[:3] {
		f.Close()
	}
	if err != nil {
		lifeline.Close()
		return failed("start "+q.Argv[0], err)
	}
	commands.Go(func() {
		// Ends at the latest when the command has, because lifeline is closed then.
		var watch sync.WaitGroup
		watch.Go(func() {
			if rc, err := lifeline.SyscallConn(); err == nil {
				_, _, _ = sys.RecvMessage(rc, make([]byte, 1))
			}
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		})
		_ = c.Wait() // what it says is in ProcessState
		if rc, err := lifeline.SyscallConn(); err == nil {
			ws := c.ProcessState.Sys().(syscall.WaitStatus)
			_ = sys.SendMessage(rc, fmt.Appendf(nil, "%d", uint32(ws))) // the owner may be gone
		}
		lifeline.Close()
		watch.Wait()
	})
	return answer{PID: c.Process.Pid}
}

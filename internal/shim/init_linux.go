package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/tap/netns"
)

// setup is what the shim tells init to make.
type setup struct {
	// Maps are the identity maps to write; nil means the shim has written them.
	Maps *idMaps `json:"maps,omitempty"`
	Dir  string  `json:"dir,omitempty"`
	// OwnNetwork says that the network namespace is new: lo is to be brought up.
	OwnNetwork bool         `json:"own_network,omitempty"`
	Links      []plumb.Link `json:"links,omitempty"` // to make
	Routes     plumb.Routes `json:"routes,omitzero"`
	Bare       bool         `json:"bare,omitempty"` // the links are not configured
	NoSysctls  bool         `json:"no_sysctls,omitempty"`
	Hostname   string       `json:"hostname,omitempty"`
	Files      []plumb.File `json:"files,omitempty"`
	// Log says what init writes to standard error.
	Log LogOptions `json:"log"`
}

// sandboxInit is the state of init, the first process of a sandbox.
type sandboxInit struct {
	conn    *conn
	command []string
	path    string // of CMD's executable
	pid     int    // of CMD
	stopped bool   // CMD is stopped, and the shim was told
	ns      netns.Namespace
	files   *laidFiles // nil when no file is laid over the host's
}

// Init is the whole life of a sandbox's init: it sets the sandbox up as the shim at descriptor 3
// says, runs command and returns the exit code for the process.
func Init(command []string) int { return initMain(command, false) }

func initMain(command []string, joined bool) int {
	if len(command) == 0 {
		command = []string{""} // is not found
	}
	// Before all else: a ^C during set-up is the shim's to act on.
	children := takeSignals()
	c, err := inheritedConn(3)
	if err != nil {
		fmt.Fprintf(os.Stderr, "usernet: %s is started by usernet itself: %v\n", InitRole, err)
		return ExitFailure
	}
	defer c.close()
	if joined {
		// A shim that is gone shows below.
		_ = c.send(message{Kind: kindEntered})
	}
	s := &sandboxInit{conn: c, command: command}
	defer func() { s.files.close() }()
	if err := s.prepare(); err != nil {
		return s.fail(err)
	}
	if _, err := c.expect(kindGo); err != nil {
		return s.fail(err)
	}
	if s.pid, err = startCommand(s.path, command); err != nil {
		return s.fail(err)
	}
	// The error of a shim that is gone shows again, as the end of the socket, in serve.
	_ = c.send(message{Kind: kindStarted, PID: s.pid})
	return s.serve(children)
}

// takeSignals keeps signals from ending init; those for CMD come as messages. They are handled and
// not ignored, because exec hands ignored ones on. They are taken for good: given back before the process
// ends, a ^C could still take CMD's exit code away. The channel has SIGCHLD.
func takeSignals() (children chan os.Signal) {
	dropped := make(chan os.Signal, 1)
	for _, sig := range append([]syscall.Signal{syscall.SIGPIPE}, forwarded...) {
		// Ignored since the caller's nohup: CMD inherits that.
		if !signal.Ignored(sig) {
			signal.Notify(dropped, sig)
		}
	}
	children = make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	return children
}

// fail tells the shim why init gives up.
func (s *sandboxInit) fail(err error) int {
	if !errors.Is(err, io.EOF) { // the shim is gone: nobody to tell
		_ = s.conn.send(message{Kind: kindFailed, Code: ExitCode(err), Error: err.Error()})
	}
	return ExitCode(err)
}

// prepare makes everything up to the point where the network is needed.
func (s *sandboxInit) prepare() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	m, err := s.conn.expect(kindSetup)
	if err != nil {
		return err
	}
	if m.Setup == nil {
		return errors.New("message setup is empty")
	}
	set := m.Setup
	s.ns = netns.Namespace{Own: true, Log: set.Log.logger()}
	if set.Maps != nil {
		if err := set.Maps.write(); err != nil {
			return withUserNamespaceHint(err)
		}
	}
	if set.Dir != "" {
		if err := os.Chdir(set.Dir); err != nil {
			return fmt.Errorf("use --workdir: %w", err)
		}
	}
	// Before the network is made: most failures are a misspelt CMD.
	if s.path, err = lookPath(s.command[0], os.Getenv("PATH")); err != nil {
		return err
	}
	if set.OwnNetwork {
		if err := makeNetwork(s.conn, s.ns, set); err != nil {
			return withUserNamespaceHint(err)
		}
	}
	return s.makeFiles(set)
}

func (s *sandboxInit) makeFiles(set *setup) (err error) {
	if set.Hostname != "" {
		if err := unix.Sethostname([]byte(set.Hostname)); err != nil {
			return withUserNamespaceHint(fmt.Errorf("set host name %s: %w", set.Hostname, err))
		}
	}
	if len(set.Files) > 0 {
		s.files, err = layFiles(set.Files)
	}
	return err
}

// serve is parent to CMD and to every orphan until CMD ends or the shim is gone.
func (s *sandboxInit) serve(children <-chan os.Signal) int {
	messages := make(chan message)
	var wg sync.WaitGroup
	wg.Go(func() { s.read(messages) })
	defer func() {
		s.conn.close()
		for range messages {
			// What the shim sends to an ended CMD has nobody to go to.
		}
		wg.Wait()
	}()
	for {
		select {
		case <-children:
			if code, ended := s.reap(); ended {
				killDescendants(nil)
				return code
			}
		case m, ok := <-messages:
			if !ok {
				killDescendants(nil)
				return ExitFailure
			}
			s.handle(m)
		}
	}
}

// handle does what the shim asks while CMD runs. A shim that is gone shows as the end of the socket.
func (s *sandboxInit) handle(m message) {
	switch m.Kind {
	case kindSignal:
		// CMD is not reaped yet, so its pid is still its own.
		_ = syscall.Kill(s.pid, m.Signal)
	case kindChange:
		_ = answer(s.conn, s.ns, m, s.files.set)
	}
	m.close()
}

// read passes on what the shim sends and closes messages when it is gone.
func (s *sandboxInit) read(messages chan<- message) {
	defer close(messages)
	for {
		m, err := s.conn.receive()
		if err != nil {
			return
		}
		messages <- m
	}
}

// reap takes every change of a child there is. ended says that CMD ended, with code.
func (s *sandboxInit) reap() (code int, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG|syscall.WUNTRACED|syscall.WCONTINUED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case pid <= 0:
			return code, ended
		case pid != s.pid: // an orphan
		case ws.Exited():
			code, ended = ws.ExitStatus(), true
		case ws.Signaled():
			code, ended = exitSignal+int(ws.Signal()), true
		case ws.Stopped():
			s.stopped = true
			_ = s.conn.send(message{Kind: kindStopped, PID: pid, Signal: ws.StopSignal()})
		case ws.Continued() && s.stopped:
			// The shim stopped with CMD. It resumes with it, whoever sent the SIGCONT.
			s.stopped = false
			_ = syscall.Kill(os.Getppid(), syscall.SIGCONT)
		}
	}
}

package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/wire"
)

const (
	// RequestTimeout bounds one request. The slowest one takes milliseconds on an idle machine; a
	// datapath that needs seconds is wedged.
	RequestTimeout = 5 * time.Second
	// closeTimeout is how long an orderly end may take: flows are reset, nothing is waited for.
	closeTimeout = 2 * time.Second
)

// Config says how to start a datapath.
type Config struct {
	// Exe is the binary; empty means /proc/self/exe, which also works when the file was replaced.
	Exe string
	// Args are argv[0] and the word that selects the role, such as {"usernet", "__datapath"}.
	Args []string
	// Stderr is where its log goes; nil means os.Stderr.
	Stderr *os.File
	// Level and JSON select what its log shows and in which form.
	Level slog.Level
	JSON  bool
	// KillOnDenied makes a system call outside the allow-list end the process instead of failing with
	// EPERM, so that a test run notices what the list lacks. USERNET_SECCOMP=kill in the environment of the
	// caller sets it too.
	KillOnDenied bool
	// Socket, when not empty, is the path of a unix socket at which the process can be adopted when whoever started
	// it is gone. Without it the process ends then.
	Socket string
	// Event receives the datapath's events on the goroutine that reads the socket; it must not block.
	Event func(Event)

	adoptionWait time.Duration // 0 means the usual one
}

// wait is how long the process waits to be adopted.
func (c *Config) wait() time.Duration {
	if c.adoptionWait > 0 {
		return c.adoptionWait
	}
	return adoptionWait
}

// Process is a running datapath, seen by the one who started or adopted it. Its methods are safe for
// concurrent use.
type Process struct {
	c     *wire.Conn
	proc  subject
	event func(Event)

	// mu guards what follows; nothing is called while it is held.
	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan message

	readDone chan struct{}  // closed when nothing more comes from the socket
	done     chan struct{}  // closed when the process has been waited for
	err      error          // written before done is closed
	wg       sync.WaitGroup // own and readReplies
	closing  sync.Once
}

// Start clones and executes a datapath in namespaces of its own, or without them where the host
// refuses. It returns when the process exists, before it is ready: Hello waits for that.
func Start(cfg Config) (*Process, error) {
	ours, theirs, err := sys.Socketpair()
	if err != nil {
		return nil, fmt.Errorf("start datapath: %w", err)
	}
	defer theirs.Close()
	c, err := wire.New(ours, MaxMessage)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start datapath: %w", err)
	}
	p := newProcess(c, cfg.Event)
	started := make(chan error)
	p.wg.Go(func() { p.own(cfg, theirs, started) })
	if err := <-started; err != nil {
		c.Close()
		return nil, fmt.Errorf("start datapath: %w", err)
	}
	p.wg.Go(p.readReplies)
	return p, nil
}

func newProcess(c *wire.Conn, event func(Event)) *Process {
	return &Process{
		c: c, event: event,
		waiting:  make(map[uint64]chan message),
		readDone: make(chan struct{}), done: make(chan struct{}),
	}
}

// subject is the process behind a Process: a child, or one that was adopted.
type subject interface {
	pid() int
	kill() error
	// wait returns when the process has ended, with how, where that can be known.
	wait() error
}

// child is a process that was started here.
type child struct{ *os.Process }

func (c child) pid() int { return c.Pid }

func (c child) kill() error {
	if err := c.Kill(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (c child) wait() error {
	state, err := c.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("wait for datapath: %w", err)
	case !state.Success():
		return fmt.Errorf("datapath process: %s", state)
	}
	return nil
}

// own starts the process and waits for it. It stays on one thread throughout, because the kernel
// sends the parent-death signal when the thread that cloned ends, not when the process does. Done
// is its end.
func (p *Process) own(cfg Config, socket *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := spawn(cfg, socket)
	p.proc = child{proc}
	started <- err
	if err != nil {
		return
	}
	p.err = p.proc.wait()
	close(p.done)
}

func spawn(cfg Config, socket *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	stderr := cfg.Stderr
	if stderr == nil {
		stderr = os.Stderr
	}
	exe := cfg.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	files := []*os.File{null, null, stderr, socket}
	// Its own session, so that Ctrl-C at the terminal is the command's and not ours.
	attr := syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if cfg.Socket != "" {
		l, err := bindSocket(cfg.Socket)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		files = append(files, l)
		attr.Pdeathsig = 0 // it outlives us
	}
	return confine.Start(exe, append(append([]string(nil), cfg.Args...), cfg.flags()...), &os.ProcAttr{
		Env:   environment(),
		Files: files,
		Sys:   &attr,
	})
}

// PID is the process id in this process's namespace.
func (p *Process) PID() int { return p.proc.pid() }

// Done is closed when the process has ended and been waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended; nil while it runs and after an orderly end.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Kill ends the process at once and waits for it.
func (p *Process) Kill() {
	if err := p.proc.kill(); err != nil {
		p.c.Close() // its other sign
	}
	<-p.done
	p.release()
}

// Close asks the process to reset its flows and end, waits for that, and kills it when it takes
// longer than 2 s. It is safe to call more than once and after the process has ended.
func (p *Process) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := p.call(ctx, kindShutdown, nil, nil, nil)
	if err == nil || errors.Is(err, ErrGone) {
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
	select {
	case <-p.done:
		p.release()
		return p.err
	default:
		p.Kill()
		return fmt.Errorf("close datapath: it did not end within %s and was killed", closeTimeout)
	}
}

// Leave ends the connection and not the process, which waits for the next control when it has a Socket, and ends
// when it has none. Nothing else is to be asked of p then; where p started the process, one goroutine goes on
// waiting for its end.
func (p *Process) Leave() {
	p.closing.Do(func() { p.c.Close() })
	<-p.readDone
}

// release closes the socket and waits for both goroutines.
func (p *Process) release() {
	p.closing.Do(func() { p.c.Close() })
	p.wg.Wait()
}

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
	// Event receives the datapath's events on the goroutine that reads the socket; it must not block.
	Event func(Event)
}

// Process is a running datapath, seen by the one who started it. Its methods are safe for
// concurrent use.
type Process struct {
	c     *wire.Conn
	proc  *os.Process
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
	p := &Process{
		c: c, event: cfg.Event,
		waiting:  make(map[uint64]chan message),
		readDone: make(chan struct{}), done: make(chan struct{}),
	}
	started := make(chan error)
	p.wg.Go(func() { p.own(cfg, theirs, started) })
	if err := <-started; err != nil {
		c.Close()
		return nil, fmt.Errorf("start datapath: %w", err)
	}
	p.wg.Go(p.readReplies)
	return p, nil
}

// own starts the process and waits for it. It stays on one thread throughout, because the kernel
// sends the parent-death signal when the thread that cloned ends, not when the process does. Done
// is its end.
func (p *Process) own(cfg Config, socket *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := spawn(cfg, socket)
	p.proc = proc
	started <- err
	if err != nil {
		return
	}
	state, err := proc.Wait()
	switch {
	case err != nil:
		p.err = fmt.Errorf("wait for datapath: %w", err)
	case !state.Success():
		p.err = fmt.Errorf("datapath process: %s", state)
	}
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
	return confine.Start(exe, append(append([]string(nil), cfg.Args...), cfg.flags()...), &os.ProcAttr{
		Env:   environment(),
		Files: []*os.File{null, null, stderr, socket},
		// Its own session, so that Ctrl-C at the terminal is the command's and not ours.
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
}

// PID is the process id in this process's namespace.
func (p *Process) PID() int { return p.proc.Pid }

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
	if err := p.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
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

// release closes the socket and waits for both goroutines.
func (p *Process) release() {
	p.closing.Do(func() { p.c.Close() })
	p.wg.Wait()
}

package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/wire"
)

// sandbox is one running sandbox as the shim sees it.
type sandbox struct {
	cfg     *Config
	log     *slog.Logger
	init    *os.Process
	conn    *conn
	signals <-chan os.Signal
	net     Network // nil until it is up; stays nil without one
	answers answers
	wg      sync.WaitGroup // all that run starts

	killing *time.Timer // the changer's: until init is killed for not having killed CMD
}

// killPatience is how long init may take to end the sandbox.
const killPatience = 2 * time.Second

// Run runs CMD in a new sandbox, returns its exit code and leaves nothing behind. An error means that
// usernet, not CMD, failed; the code is then the one to exit with. The process's signals stay taken: one
// that comes now must not change the code.
func Run(ctx context.Context, cfg Config) (int, error) {
	signals, _ := catchSignals()
	return runSandbox(ctx, cfg, signals)
}

func runSandbox(ctx context.Context, cfg Config, signals <-chan os.Signal) (int, error) {
	s := &sandbox{cfg: &cfg, log: cfg.Log, signals: signals}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	// Orphans come to us when init is killed.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return ExitFailure, fmt.Errorf("become subreaper: %w", err)
	}
	var err error
	if cfg.Join != nil {
		// The other sandbox has all that these would say.
		cfg.Hostname, cfg.Links = "", nil
		s.init, s.conn, err = join(ctx, &cfg)
	} else {
		s.init, s.conn, err = startInit(&cfg)
	}
	if err != nil {
		return ExitFailure, err
	}
	code, err := s.run(ctx)
	if err != nil {
		return ExitCode(err), err
	}
	return code, nil
}

// result is a value or an error, for a channel.
type result[T any] struct {
	v   T
	err error
}

// events are what a sandbox waits for.
type events struct {
	up       chan result[Network]          // the network is ready, the TAPs attached, the ports bound
	exited   chan result[*os.ProcessState] // init
	messages chan result[message]          // from init; closed after an error
}

// run takes the sandbox from a started init to its end.
func (s *sandbox) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	ev := events{make(chan result[Network], 1), make(chan result[*os.ProcessState], 1), make(chan result[message])}
	dev := make(chan message, len(s.cfg.Links))
	s.answers = answers{conn: s.conn, from: make(chan message, 1)}
	if s.cfg.Start != nil {
		s.wg.Go(func() { ev.up <- s.startNetwork(ctx, dev) })
	} else {
		ev.up <- result[Network]{}
	}
	s.wg.Go(func() {
		ps, err := s.init.Wait()
		ev.exited <- result[*os.ProcessState]{ps, err}
	})
	s.wg.Go(func() { s.read(ev.messages) })

	code, err := s.serve(ctx, ev, dev)
	cancel()
	// Init ends when the socket does, if it has not yet.
	s.conn.close()
	for r := range ev.messages { // the reader must not wait for a taker of its last message
		r.v.close()
	}
	s.wg.Wait()
	s.answers.close()
	if s.killing != nil {
		s.killing.Stop()
	}
	close(dev)
	for m := range dev { // a TAP nobody took
		m.close()
	}
	select {
	case r := <-ev.up: // a network that was ready too late
		s.net = r.v
	default:
	}
	if s.net != nil {
		err = joinOnce(err, s.net.Close())
	}
	// The datapath is gone by now: whatever is left below us in another user namespace is the sandbox's.
	killDescendants(s.member)
	return code, err
}

// member says of a process below us that it is the sandbox's. A daemon that we started may have died and left its
// datapath to us, which other sandboxes need and the next daemon has adopted; it is in our network namespace, where nothing
// of a sandbox with one of its own ever gets.
func (s *sandbox) member(pid int) bool {
	ownNetwork := s.cfg.Join == nil && len(s.cfg.Links) > 0
	return inOtherNamespace("user", pid) && (!ownNetwork || inOtherNamespace("net", pid))
}

// startNetwork brings up the Network and attaches the TAPs that come over dev.
func (s *sandbox) startNetwork(ctx context.Context, dev <-chan message) result[Network] {
	n, err := s.cfg.Start(ctx, s.init.Pid)
	if err != nil {
		return result[Network]{err: err}
	}
	if err := s.connect(ctx, n, dev); err != nil {
		return result[Network]{err: joinOnce(err, n.Close())}
	}
	return result[Network]{v: n}
}

// joinOnce is both errors, or err alone where it tells of further already: a Network that broke down is closed with
// the reason that it broke down for.
func joinOnce(err, further error) error {
	if further == nil || errors.Is(err, further) {
		return err
	}
	return errors.Join(err, further)
}

// connect attaches the TAPs that init sends, one for each Link.
func (s *sandbox) connect(ctx context.Context, n Network, dev <-chan message) error {
	for range s.cfg.Links {
		select {
		case m := <-dev:
			err := n.Attach(m.Endpoint, m.file, *m.Info)
			m.close()
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// read passes on what init sends; the last result is its error.
func (s *sandbox) read(messages chan<- result[message]) {
	defer close(messages)
	for {
		m, err := s.conn.receive()
		messages <- result[message]{m, err}
		if err != nil {
			return
		}
	}
}

// sendSetup tells init what to make. With MapAuto it maps init before.
func (s *sandbox) sendSetup(ctx context.Context) error {
	joined := s.cfg.Join != nil
	if s.cfg.Map == MapAuto && !joined {
		if err := mapAuto(ctx, s.init.Pid); err != nil {
			return fmt.Errorf("map users: %w", err)
		}
	}
	set := &setup{Dir: s.cfg.Dir, Hostname: s.cfg.Hostname, Files: s.cfg.Files, Log: s.cfg.InitLog}
	if !joined {
		set.Maps, set.OwnNetwork = ownMaps(s.cfg.Map), s.cfg.Network != NetworkHost
	}
	if s.cfg.Network == NetworkPrivate {
		set.Links, set.Routes = s.cfg.Links, s.cfg.Routes
	}
	err := s.conn.send(message{Kind: kindSetup, Setup: set})
	if err != nil && !wire.Gone(err) {
		return fmt.Errorf("%w; use fewer --add-host", err)
	}
	return err
}

// serve sees to the sandbox until init has exited or something fails. A TAP from init goes to dev.
func (s *sandbox) serve(ctx context.Context, ev events, dev chan<- message) (int, error) {
	if err := s.sendSetup(ctx); err != nil {
		return ExitFailure, err
	}
	// From going on signals are CMD's: it may run and have got them before we hear of it, and what is sent to init waits
	// there until CMD runs.
	going, running := false, false
	ended := make(chan os.Signal, 1)
	if s.cfg.Reap != nil {
		signal.Notify(ended, syscall.SIGCHLD)
		defer signal.Stop(ended)
		s.cfg.Reap() // what ended before
	}
	var netDone <-chan struct{}
	for {
		select {
		case r := <-ev.up:
			if r.err != nil {
				return ExitFailure, r.err
			}
			if s.net = r.v; s.net != nil {
				netDone = s.net.Done()
			}
			// An init that is gone by now shows as its exit.
			_ = s.conn.send(message{Kind: kindGo})
			going = true
		case r, ok := <-ev.messages:
			if !ok {
				ev.messages = nil
				continue
			}
			if err := s.handle(r, dev); err != nil {
				return ExitCode(err), err
			}
			if r.v.Kind == kindStarted && !running {
				running = true
				s.started(ctx)
			}
		case r := <-ev.exited:
			return s.ended(r, ev.messages)
		case sig := <-s.signals:
			if !going && endsProcess(sig.(syscall.Signal)) {
				return exitSignal + int(sig.(syscall.Signal)), nil
			}
			if going && !reachedCommand(sig.(syscall.Signal)) {
				_ = s.conn.send(message{Kind: kindSignal, Signal: sig.(syscall.Signal)})
			}
		case <-ended:
			s.cfg.Reap()
		case <-netDone:
			s.log.Error("network is down for good; the command goes on without")
			netDone = nil
		case <-ctx.Done():
			return ExitFailure, ctx.Err()
		}
	}
}

// handle acts on a message of init. An error ends the sandbox.
func (s *sandbox) handle(r result[message], dev chan<- message) error {
	m := r.v
	switch {
	case r.err != nil:
		return nil // the end of init shows as its exit
	case m.Kind == kindFailed:
		return &Error{Code: m.Code, Err: errors.New(m.Error)}
	case m.Kind == kindTAP && m.file != nil && m.Info != nil && s.cfg.Start != nil:
		select {
		case dev <- m:
			return nil
		default: // a second one
		}
	case m.Kind == kindChanged:
		s.answers.deliver(m)
		return nil
	case m.Kind == kindStopped:
		stopWith(m.PID, m.Signal)
	case m.Kind == kindStarted:
		s.log.Info("command started", "pid", m.PID)
	}
	m.close()
	return nil
}

// started tells the Network that CMD runs, and begins to make the changes it asks for.
func (s *sandbox) started(ctx context.Context) {
	if s.net == nil {
		return
	}
	s.net.Started(s.init.Pid)
	if s.net.Changes() == nil {
		return
	}
	c := newChanger(s.net, s.cfg.Links, s.cfg.Routes)
	c.ask, c.signal = s.answers.ask, s.signalCommand
	s.wg.Go(func() { c.run(ctx) })
}

// signalCommand sends CMD a signal that the Network's side asks for. SIGKILL ends the sandbox, also when
// something inside has stopped init.
func (s *sandbox) signalCommand(sig syscall.Signal) error {
	if sig == syscall.SIGKILL && s.killing == nil {
		s.killing = time.AfterFunc(killPatience, func() { _ = s.init.Kill() })
	}
	return s.conn.send(message{Kind: kindSignal, Signal: sig})
}

// ended makes the exit code of an init that is gone. What it sent last may still be to be read.
func (s *sandbox) ended(r result[*os.ProcessState], messages <-chan result[message]) (int, error) {
	if r.err != nil {
		return ExitFailure, fmt.Errorf("wait for sandbox init: %w", r.err)
	}
	if messages != nil {
		for m := range messages {
			m.v.close()
			if m.err == nil && m.v.Kind == kindFailed {
				return m.v.Code, &Error{Code: m.v.Code, Err: errors.New(m.v.Error)}
			}
		}
	}
	ws := r.v.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return ExitFailure, fmt.Errorf("run sandbox: its init was ended by signal %d (%v); everything in the sandbox was ended with it", int(ws.Signal()), ws.Signal())
	}
	return ws.ExitStatus(), nil
}

// endsProcess says that a signal whose default action is taken ends a process.
func endsProcess(s syscall.Signal) bool {
	return s != syscall.SIGWINCH && s != syscall.SIGCONT
}

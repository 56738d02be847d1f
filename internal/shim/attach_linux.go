package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// A network for a namespace that somebody else made.
//
// # Theory of operation
//
//  1. The network namespace is opened, checked to be one and not our own, and held until the interface
//     is made: neither a path nor a pid can come to mean another one meanwhile. Not longer, because a
//     mount of which a file is open cannot be unmounted.
//  2. A helper, the hidden role __tap, is run inside by nsenter (helper_linux.go), because a
//     multi-threaded process cannot enter a user namespace. It makes and configures the interfaces, sends
//     their TAPs back and exits.
//  3. The TAPs go to the Network. A helper writes files into the container (below_linux.go), and the
//     caller is told that it is ready.
//  4. Attach waits for the end of the process or of the path (watch_linux.go), for a signal, or for the
//     network to fail. For each change meanwhile (changes_linux.go) a helper is run again. Closing the last
//     descriptor of a TAP removes its interface.

// AttachConfig says which namespace gets a network, and which.
type AttachConfig struct {
	// PID is a process in the namespace; Attach ends with it.
	PID int
	// Netns is the path of the namespace, when PID is 0; Attach ends when it is unmounted or deleted.
	Netns string
	// Userns is the path of the user namespace to enter; empty means the one that owns the network
	// namespace.
	Userns string

	// Links are the interfaces to make at the start, and Routes the routes.
	Links  []plumb.Link
	Routes plumb.Routes
	// Files are written into the container of PID, unless it has the host's there. Changes rewrite these and
	// pass over others.
	Files []plumb.File
	// Start brings up the Network behind Links, with its ports bound.
	Start func(ctx context.Context, pid int) (Network, error) `json:"-"`
	// Ready, when not nil, gets "1" and is closed when the network works.
	Ready *os.File `json:"-"`
	// Exe is the binary run as helper; empty means the running one.
	Exe string
	// Log takes state changes; nil discards them.
	Log *slog.Logger
	// HelperLog says what the helper logs.
	HelperLog LogOptions
}

// Attach gives a namespace a network until the namespace ends, ctx does, or a signal asks for the end;
// those are no errors.
func Attach(ctx context.Context, cfg AttachConfig) (err error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	signals, release := catchSignals()
	defer release()
	// As in Run: neither helper nor datapath gets what our caller left open.
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("mark inherited descriptors: %w", err)
	}
	ns, err := openNamespaces(cfg.PID, cfg.Netns, cfg.Userns)
	if err != nil {
		return fmt.Errorf("attach to %w", err)
	}
	defer ns.close()
	a := &attachment{cfg: &cfg, log: log, ns: ns}
	if err := a.connect(ctx); err != nil {
		return err
	}
	ns.release()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		wg.Wait()
		err = errors.Join(err, a.net.Close())
	}()
	if err := signalReady(cfg.Ready); err != nil {
		return err
	}
	log.Info("attached", "namespace", ns.name)
	w, err := watchEnd(ns)
	if err != nil {
		return err
	}
	defer w.close()
	a.changes(ctx, &wg)
	return a.wait(ctx, signals, w)
}

// wait waits for the end of the namespace, of the network, or of the wish.
func (a *attachment) wait(ctx context.Context, signals <-chan os.Signal, w *endWatch) error {
	for {
		select {
		case <-w.ended:
			a.log.Info("namespace ended", "namespace", a.ns.name, "cause", w.cause)
			return nil
		case s := <-signals:
			switch s {
			case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT:
				a.log.Info("detached", "signal", s)
				return nil
			}
		case <-a.net.Done():
			return errors.New("attach: the network is down for good; see the log")
		case <-ctx.Done():
			return nil
		}
	}
}

// attachment is one running Attach.
type attachment struct {
	cfg *AttachConfig
	log *slog.Logger
	ns  *namespaces
	net Network
}

// connect makes the interfaces and the network side by side and joins them.
func (a *attachment) connect(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up := make(chan result[Network], 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		n, err := a.cfg.Start(context.WithoutCancel(ctx), a.cfg.PID)
		up <- result[Network]{n, err}
	})
	taps, err := a.ns.makeLinks(ctx, a.cfg)
	r := <-up
	for i := range taps {
		m := &taps[i]
		defer m.close()
		if err == nil && r.err == nil {
			err = r.v.Attach(m.Endpoint, m.file, *m.Info)
		}
	}
	if r.err != nil {
		return r.err
	}
	if err != nil {
		return errors.Join(err, r.v.Close())
	}
	a.net = r.v
	if len(a.cfg.Files) > 0 {
		a.ns.writeFiles(func(root *os.File) error {
			_, err := a.ns.change(ctx, a.cfg, change{Files: a.cfg.Files}, root)
			return err
		}, a.cfg.Files, a.log)
	}
	return nil
}

// changes begins to make the changes that the Network asks for, until ctx ends.
func (a *attachment) changes(ctx context.Context, wg *sync.WaitGroup) {
	a.net.Started(a.ns.pid)
	if a.net.Changes() == nil {
		return
	}
	c := newChanger(a.net, a.cfg.Links, a.cfg.Routes)
	c.ask, c.signal = a.ask, a.signal
	wg.Go(func() { c.run(ctx) })
}

// ask has a helper make a change in the namespaces as they are now.
func (a *attachment) ask(ctx context.Context, ch change) (message, error) {
	if err := a.ns.reopen(); err != nil {
		a.ns.release()
		return message{}, fmt.Errorf("enter %w", err)
	}
	defer a.ns.release()
	if len(ch.Files) == 0 {
		return a.ns.change(ctx, a.cfg, ch, nil)
	}
	if ch.Files = a.ownFiles(ch.Files); len(ch.Files) == 0 {
		return message{}, nil
	}
	a.ns.writeFiles(func(root *os.File) error {
		_, err := a.ns.change(ctx, a.cfg, ch, root)
		return err
	}, ch.Files, a.log)
	return message{}, nil
}

// ownFiles leaves out the files that were not given at the start: those are the container's own affair.
func (a *attachment) ownFiles(files []plumb.File) (own []plumb.File) {
	for _, f := range files {
		if slices.ContainsFunc(a.cfg.Files, func(g plumb.File) bool { return g.Path == f.Path }) {
			own = append(own, f)
		}
	}
	return own
}

// signal sends a signal to the process that was attached to.
func (a *attachment) signal(sig syscall.Signal) error {
	if a.ns.pidfd < 0 {
		return fmt.Errorf("send signal %d: %s was given by a path, not by a process", int(sig), a.ns.name)
	}
	if err := unix.PidfdSendSignal(a.ns.pidfd, sig, nil, 0); err != nil {
		return fmt.Errorf("send signal %d to %s: %w", int(sig), a.ns.name, err)
	}
	return nil
}

// signalReady tells whoever waits at the other end of f, as slirp4netns does.
func signalReady(f *os.File) error {
	if f == nil {
		return nil
	}
	_, err := f.WriteString("1")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("signal ready: %w", err)
	}
	return nil
}

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
	// Bare leaves the interfaces as they are made, or were: without addresses, routes and settings, which are
	// somebody else's affair. Routes has no meaning then.
	Bare bool
	// NoSysctls leaves the settings in /proc/sys as they are, but for the Sysctls of Links.
	NoSysctls bool
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
func Attach(ctx context.Context, cfg AttachConfig) error {
	signals, release := catchSignals()
	defer release()
	a, err := Connect(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(a.wait(ctx, signals), a.Close())
}

// Connect gives a namespace a network and returns when it works. The network ends with Close, which the
// caller owes, not with ctx.
func Connect(ctx context.Context, cfg AttachConfig) (*Attachment, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	// As in Run: neither helper nor datapath gets what our caller left open.
	if err := CloseOnExec(); err != nil {
		return nil, fmt.Errorf("mark inherited descriptors: %w", err)
	}
	ns, err := openNamespaces(cfg.PID, cfg.Netns, cfg.Userns)
	if err != nil {
		return nil, fmt.Errorf("attach to %w", err)
	}
	a := &Attachment{cfg: &cfg, log: cfg.Log, ns: ns}
	if err := a.connect(ctx); err != nil {
		ns.close()
		return nil, err
	}
	ns.release()
	if err := a.begin(context.WithoutCancel(ctx)); err != nil {
		return nil, joinOnce(err, a.Close())
	}
	a.log.Info("attached", "namespace", ns.name)
	return a, nil
}

// begin tells who waits that the network works, and starts what goes on while it does.
func (a *Attachment) begin(ctx context.Context) (err error) {
	ctx, a.cancel = context.WithCancel(ctx)
	if a.watch, err = watchEnd(a.ns); err != nil {
		return err
	}
	if err := signalReady(a.cfg.Ready); err != nil {
		return err
	}
	a.changes(ctx, &a.wg)
	return nil
}

// Ended is closed when the namespace has ended.
func (a *Attachment) Ended() <-chan struct{} { return a.watch.ended }

// Close takes the network away, with its interfaces, and returns once nothing of it is left.
func (a *Attachment) Close() error {
	a.cancel()
	a.wg.Wait()
	if a.watch != nil {
		a.watch.close()
	}
	err := a.net.Close()
	a.ns.close()
	return err
}

// wait waits for the end of the namespace, of the network, or of the wish.
func (a *Attachment) wait(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-a.watch.ended:
			a.log.Info("namespace ended", "namespace", a.ns.name, "cause", a.watch.cause)
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

// Attachment is a namespace that has got a network.
type Attachment struct {
	cfg *AttachConfig
	log *slog.Logger
	ns  *namespaces
	net Network

	watch  *endWatch
	cancel context.CancelFunc // ends changes
	wg     sync.WaitGroup     // changes
}

// connect makes the interfaces and the network side by side and joins them.
func (a *Attachment) connect(ctx context.Context) (err error) {
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
func (a *Attachment) changes(ctx context.Context, wg *sync.WaitGroup) {
	a.net.Started(a.ns.pid)
	if a.net.Changes() == nil {
		return
	}
	c := newChanger(a.net, a.cfg.Links, a.cfg.Routes)
	c.ask, c.signal = a.ask, a.signal
	wg.Go(func() { c.run(ctx) })
}

// ask has a helper make a change in the namespaces as they are now.
func (a *Attachment) ask(ctx context.Context, ch change) (message, error) {
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
func (a *Attachment) ownFiles(files []plumb.File) (own []plumb.File) {
	for _, f := range files {
		if slices.ContainsFunc(a.cfg.Files, func(g plumb.File) bool { return g.Path == f.Path }) {
			own = append(own, f)
		}
	}
	return own
}

// signal sends a signal to the process that was attached to.
func (a *Attachment) signal(sig syscall.Signal) error {
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

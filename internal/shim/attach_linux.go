package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// A network for a namespace that somebody else made.
//
// # Theory of operation
//
//  1. The network namespace is opened, checked to be one and not our own, and held until the interface
//     is made: neither a path nor a pid can come to mean another one meanwhile. Not longer, because a
//     mount of which a file is open cannot be unmounted.
//  2. A helper, the hidden role __tap, is run inside by nsenter (nsenter_linux.go), because a
//     multi-threaded process cannot enter a user namespace. It makes and configures the interface, sends
//     the TAP back and exits.
//  3. The TAP goes to control, the ports are bound, and the caller is told that it is ready.
//  4. Attach waits for the end of the process or of the path (watch_linux.go), for a signal, or for the
//     network to fail. Closing the last descriptor of the TAP removes the interface.

// AttachConfig says which namespace gets a network, and which.
type AttachConfig struct {
	// PID is a process in the namespace; Attach ends with it.
	PID int
	// Netns is the path of the namespace, when PID is 0; Attach ends when it is unmounted or deleted.
	Netns string
	// Userns is the path of the user namespace to enter; empty means the one that owns the network
	// namespace.
	Userns string

	Link     Link
	Endpoint spec.Endpoint
	Publish  []portfwd.Spec
	// Start brings up control and the datapath.
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
	t, err := openTarget(&cfg)
	if err != nil {
		return err
	}
	defer t.close()
	n, err := t.connect(ctx, &cfg)
	if err != nil {
		return err
	}
	t.release()
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := signalReady(cfg.Ready); err != nil {
		return err
	}
	log.Info("attached", "namespace", t.name)
	w, err := watchEnd(t)
	if err != nil {
		return err
	}
	defer w.close()
	for {
		select {
		case <-w.ended:
			log.Info("namespace ended", "namespace", t.name, "cause", w.cause)
			return nil
		case s := <-signals:
			switch s {
			case syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT:
				log.Info("detached", "signal", s)
				return nil
			}
		case <-n.Done():
			return errors.New("attach: the network is down for good; see the log")
		case <-ctx.Done():
			return nil
		}
	}
}

// connect makes the interface and the network side by side and joins them.
func (t *target) connect(ctx context.Context, cfg *AttachConfig) (Network, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up := make(chan result[Network], 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		n, err := cfg.Start(context.WithoutCancel(ctx), cfg.PID)
		if err == nil && len(cfg.Publish) > 0 {
			if _, perr := n.Publish(cfg.Publish); perr != nil {
				err = errors.Join(perr, n.Close())
			}
		}
		up <- result[Network]{n, err}
	})
	dev, info, err := t.makeTAP(ctx, cfg)
	r := <-up
	if dev != nil {
		defer dev.Close()
	}
	if r.err != nil {
		return nil, r.err
	}
	if err == nil {
		err = r.v.Attach(cfg.Endpoint, dev, info)
	}
	if err != nil {
		return nil, errors.Join(err, r.v.Close())
	}
	return r.v, nil
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

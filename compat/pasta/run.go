package pasta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/session"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
)

// sessionConfig is what both ways to run have in common.
func (r *runner) sessionConfig() (session.Config, error) {
	publish, err := fixedSpecs(&r.in, r.o.HostLoToNSLo)
	if err != nil {
		return session.Config{}, err
	}
	if err := checkOut(&r.out); err != nil {
		return session.Config{}, err
	}
	return session.Config{
		Network: r.plan.Network, Endpoint: r.plan.Endpoint, Link: r.plan.Link, Routes: r.plan.Routes, Configure: true,
		DNS: r.plan.DNS, Publish: publish, Capture: r.pcap, Splice: !r.o.NoSplice, Log: r.log, Level: r.level, Stderr: r.stderr,
	}, nil
}

// attach gives an existing namespace its network, and stays until that ends.
func (r *runner) attach() (int, error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	cfg, err := r.sessionConfig()
	if err != nil {
		return exitFailure, err
	}
	target, err := r.target()
	if err != nil {
		return exitFailure, err
	}
	cfg.Target, cfg.Linger = target, r.o.NoNetnsQuit
	ctx := context.Background()
	var s *session.Session
	err = untilFree(func() error {
		var err error
		s, err = session.Start(ctx, cfg)
		return err
	}, staysTaken)
	if err != nil {
		return exitFailure, err
	}
	defer s.Close()
	in := shim.Namespace{PID: target.PID, Netns: target.Netns, Userns: target.Userns}
	if err := r.serve(ctx, sessionNetwork{s}, in, false); err != nil {
		return exitFailure, err
	}
	defer r.conf.close()
	if err := r.detach(); err != nil {
		return exitFailure, err
	}
	select {
	case <-signals:
	case <-s.Done():
		r.log.Info("namespace is gone, exiting")
		if err := s.Err(); err != nil {
			return exitFailure, err
		}
	}
	return 0, nil
}

// target is the namespace that the command line names, by paths that stay true.
func (r *runner) target() (session.Target, error) {
	t := session.Target{PID: r.o.PID, Netns: r.o.Netns, Userns: r.o.Userns}
	for _, p := range []*string{&t.Netns, &t.Userns} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return t, err
		}
		*p = abs
	}
	return t, nil
}

// serve opens the ports that are not open yet, and the configuration socket.
func (r *runner) serve(ctx context.Context, n network, in shim.Namespace, fresh bool) error {
	sockets := func(ctx context.Context, wanted []plumb.Socket) ([]*os.File, error) {
		return shim.Sockets(ctx, in, wanted)
	}
	p, err := startPorts(ctx, n, sockets, kernelSides(sockets), fresh, r.o.HostLoToNSLo, r.in, r.out, r.log)
	if err != nil {
		return err
	}
	r.conf.serve(p, r.log)
	return nil
}

// sessionNetwork is a session as ports want it.
type sessionNetwork struct{ *session.Session }

func (s sessionNetwork) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	return s.Session.Publish(specs...)
}

func (s sessionNetwork) Unpublish(specs []portfwd.Spec) error { return s.Session.Unpublish(specs...) }

// hostnamePrefix is what the original puts before the host's name in the namespaces it makes.
const hostnamePrefix = "pasta-"

// spawn runs the command, or a shell, in namespaces of its own.
func (r *runner) spawn() (int, error) {
	command, err := r.command()
	if err != nil {
		return exitFailure, err
	}
	cfg, err := r.sessionConfig()
	if err != nil {
		return exitFailure, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return exitFailure, fmt.Errorf("Failed to read the host's name: %w", err)
	}
	ctx := context.Background()
	if err := r.writePID(); err != nil {
		return exitFailure, err
	}
	return shim.Run(ctx, shim.Config{
		Command: command, Env: r.env, Map: shim.MapRoot, Network: shim.NetworkPrivate,
		Hostname: hostnamePrefix + hostname, Links: []plumb.Link{r.plan.Link}, Routes: r.plan.Routes,
		Start: func(ctx context.Context, init int) (shim.Network, error) {
			n, err := session.Open(ctx, cfg)
			if err != nil {
				return nil, bindText(err)
			}
			return &spawned{Opened: n, r: r, ctx: ctx, init: init}, nil
		},
		Stdio: r.stdio, Log: r.log,
		InitLog: shim.LogOptions{On: r.o.Debug, Level: r.level},
	})
}

// command is what to run. One that cannot be found is refused before anything is made.
func (r *runner) command() ([]string, error) {
	if len(r.o.Command) == 0 {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		return []string{shell, "-l"}, nil
	}
	if _, err := exec.LookPath(r.o.Command[0]); err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, fmt.Errorf("Failed to start command or shell: %w", err)
	}
	return r.o.Command, nil
}

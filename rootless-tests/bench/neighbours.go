package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// Neighbours are two containers of one network: the first is the client of all measurements, the second the server.
// usernet's are `usernet run --network`, podman's are in podman.go.

// The network of usernet's neighbours.
const neighboursSubnet = "10.90.0.0/24"

var (
	neighboursServer = netip.MustParseAddr("10.90.0.12")
	// resolver is where a container of a named network finds names.
	resolver = netip.MustParseAddrPort("127.0.0.11:53")
)

// neighbours sets up a pair of subject's containers, at floorMTU. On failure nothing is left.
func (b *builder) neighbours(subject report.Subject) (*sandbox, error) {
	s := &sandbox{subject: subject, mtu: floorMTU}
	var err error
	if subject == report.Podman {
		err = b.podman(s)
	} else {
		err = b.named(s)
	}
	if err == nil {
		_, err = s.server.Do(load.Request{Op: load.Listen, Ports: containerPorts})
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("set up containers of one network: %w%s", err, s.messages())
	}
	return s, nil
}

// named sets up usernet's pair, with a daemon of their own.
func (b *builder) named(s *sandbox) error {
	d, err := b.startDaemon(s.start, "named")
	if err != nil {
		return err
	}
	if err := d.usernet("network", "create", "--subnet", neighboursSubnet, "bench"); err != nil {
		return err
	}
	for i, remote := range []**load.Remote{&s.inside, &s.server} {
		addr := neighboursServer
		if i == 0 {
			addr = addr.Prev()
		}
		cmd := d.command("run", "--network", "bench", "--name", fmt.Sprintf("c%d", i+1), "--ip", addr.String(), "--", b.program("bench"), agentRole)
		p, r, err := launchAgent(cmd)
		if err != nil {
			return err
		}
		s.started = append(s.started, p)
		*remote = r
		// The answer to anything shows that it runs.
		if _, err := r.Do(load.Request{Op: load.FloodCount}); err != nil {
			return err
		}
	}
	s.across = netip.AddrPortFrom(neighboursServer, containerPorts.TCP)
	s.names, s.name = resolver, "c2"
	pid, err := d.datapath()
	s.pids = []int{pid}
	return err
}

// apiSocket and joinSocket are the daemon's, in its runtime directory.
const (
	apiSocket  = "usernet.sock"
	joinSocket = "join.sock"
)

// daemon is a `usernet daemon` with directories of its own.
type daemon struct {
	program string
	dir     string
	env     []string
	flags   []string
	process *process
	carrier int // its datapath, 0 when that is not known
}

// startDaemon starts one whose directories are below name, and returns when its API answers.
func (b *builder) startDaemon(start func(*exec.Cmd) (*process, error), name string, flags ...string) (*daemon, error) {
	d := &daemon{program: b.program("usernet"), dir: b.program(name), flags: flags}
	for _, dir := range []string{d.dir, d.runtime()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	d.env = append(os.Environ(), "HOME="+d.dir, "XDG_RUNTIME_DIR="+d.runtime(),
		"XDG_STATE_HOME="+filepath.Join(d.dir, "state"), "XDG_CONFIG_HOME="+filepath.Join(d.dir, "config"))
	return d, d.start(start)
}

// start starts the process, the first or after its end.
func (d *daemon) start(start func(*exec.Cmd) (*process, error)) (err error) {
	if d.process, err = start(d.command(append([]string{"daemon"}, d.flags...)...)); err != nil {
		return err
	}
	return d.process.waitFor("the daemon", func() bool {
		c, err := net.Dial("unix", d.socket(apiSocket))
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

func (d *daemon) runtime() string { return filepath.Join(d.dir, "run") }

func (d *daemon) socket(name string) string { return filepath.Join(d.runtime(), "usernet", name) }

// command is a usernet command that uses this daemon.
func (d *daemon) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.program, args...)
	cmd.Env = d.env
	return cmd
}

// usernet runs such a command to its end.
func (d *daemon) usernet(args ...string) error {
	if out, err := d.command(args...).CombinedOutput(); err != nil {
		return fmt.Errorf("usernet %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// datapath is the process that carries the bytes. The next daemon adopts that of one that was killed, which then is not
// its child. One that has carried many Endpoints is replaced by a fresh one; what has ended has no memory, if it is there still.
func (d *daemon) datapath() (pid int, err error) {
	if b, err := residentBytes([]int{d.carrier}); d.carrier != 0 && err == nil && b > 0 {
		return d.carrier, nil
	}
	err = d.process.waitFor("the daemon's datapath", func() (ok bool) {
		d.carrier, ok = descendant(d.process.pid(), "__datapath")
		return ok
	})
	return d.carrier, err
}

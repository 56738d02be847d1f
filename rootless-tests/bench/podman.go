package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// podman's own rootless bridge is two containers on a network of podman's, with its name server. podman keeps them in
// a network namespace that it makes for its user, outside of the rig, since setuid programs of the host, which give
// it its user ids, do nothing in the rig's user namespace. So the user's step sets them up before there is a rig, and
// the measuring process gets the pipes of the agents in them.
const (
	podmanSubnet = "10.89.77.0/24"
	podmanName   = "c2.dns.podman" // what the second container is called in full
)

var (
	podmanServer = netip.MustParseAddr("10.89.77.12")
	// podmanNames is where containers find aardvark-dns: their gateway.
	podmanNames = netip.MustParseAddrPort("10.89.77.1:53")
)

// The pipes in the measuring process are podmanPipes descriptors from podmanFDs: input and output of each agent.
const (
	podmanFDs   = resultFD + 1
	podmanPipes = 4
)

// podmanPatience is for podman's own work: a container needs well below a second.
const podmanPatience = time.Minute

// podmanHost runs podman with files of its own.
type podmanHost struct {
	dir   string // everything is below
	flags []string
	pipes []*os.File // for the measuring process
	runs  []*process
}

// newPodmanHost is one that has its files at name below dir.
func newPodmanHost(dir, name string) (*podmanHost, error) {
	p := &podmanHost{dir: filepath.Join(dir, name+"-files")}
	// In tmpdir is which process holds the user namespace, to the last.
	tmpdir := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), name)
	p.flags = []string{"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--tmpdir", tmpdir, "--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs", "--network-backend", "netavark", "--events-backend", "none", "--log-level", "error"}
	return p, os.Mkdir(p.dir, 0o755)
}

// startPodman sets the two containers up. What is left of a failure is removed by stop.
func startPodman(dir string) (*podmanHost, error) {
	p, err := newPodmanHost(dir, "podman")
	if err != nil {
		return p, err
	}
	if err := p.do("network", "create", "--subnet", podmanSubnet, "bench"); err != nil {
		return p, err
	}
	for i, addr := range []netip.Addr{podmanServer.Prev(), podmanServer} {
		if err := p.container(fmt.Sprintf("c%d", i+1), addr); err != nil {
			return p, err
		}
	}
	return p, nil
}

// do runs podman to its end.
func (p *podmanHost) do(args ...string) error {
	// Not a context that ^C ends: it is also what removes everything after ^C.
	ctx, cancel := context.WithTimeout(context.Background(), podmanPatience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "podman", append(p.flags, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("podman %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// rootfs makes the files of a container: an agent.
func (p *podmanHost) rootfs(name string) (string, error) {
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, copyFile(filepath.Join(dir, "bench"), filepath.Join(filepath.Dir(p.dir), "bench"))
}

// container starts an agent in a container and returns when it runs.
func (p *podmanHost) container(name string, addr netip.Addr) error {
	rootfs, err := p.rootfs(name)
	if err != nil {
		return err
	}
	in, stdin, err := os.Pipe()
	if err != nil {
		return err
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		return errors.Join(err, in.Close(), stdin.Close())
	}
	defer in.Close()
	defer out.Close()
	p.pipes = append(p.pipes, stdin, stdout)
	cmd := exec.Command("podman", append(p.flags, "run", "--rm", "--interactive", "--cgroups=disabled", "--log-driver", "none",
		"--network", "bench", "--ip", addr.String(), "--name", name, "--rootfs", rootfs, "/bench", agentRole)...)
	cmd.Stdin, cmd.Stdout = in, out
	r, err := launch(cmd)
	if err != nil {
		return err
	}
	p.runs = append(p.runs, r)
	return r.waitFor("container "+name, func() bool {
		state, err := exec.Command("podman", append(p.flags, "inspect", "--format", "{{.State.Running}}", name)...).Output()
		return err == nil && strings.TrimSpace(string(state)) == "true"
	})
}

// stop removes everything: the containers, and with them podman's network namespace and its name server; its files,
// some of which are not the user's own; and the process that holds its user namespace.
func (p *podmanHost) stop() error {
	for _, f := range p.pipes {
		f.Close()
	}
	err := errors.Join(p.do("rm", "--force", "--all", "--time", "0"), p.do("unshare", "rm", "-rf", p.dir))
	for _, r := range p.runs {
		r.stop()
	}
	return errors.Join(err, p.do("system", "migrate"), os.RemoveAll(p.dir))
}

// podmanFailure is where the user's step writes why there are no containers.
func podmanFailure(dir string) string { return filepath.Join(dir, "podman-failed") }

// podman is the pair that the user's step set up. Its agents end with it, not with the sandbox.
func (b *builder) podman(s *sandbox) error {
	if why, err := os.ReadFile(podmanFailure(b.dir)); err == nil {
		return errors.New(string(why))
	}
	remote := func(i uintptr) *load.Remote {
		return load.NewRemote(os.NewFile(podmanFDs+2*i, "agent's input"), os.NewFile(podmanFDs+2*i+1, "agent's output"))
	}
	s.inside, s.server = remote(0), remote(1)
	s.across = netip.AddrPortFrom(podmanServer, containerPorts.TCP)
	s.names, s.name = podmanNames, podmanName
	return nil
}

// wantsPodman tells whether the options need it.
func (o *options) wantsPodman() bool { return o.wants(report.Podman) && o.wantsAny(networkSteps()) }

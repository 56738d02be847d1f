package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// The container's server, on the same ports in every container. Each has a network of its own, so nothing else
// is there. On the host it is published at publishedBase plus the sandbox's number.
var containerPorts = load.Ports{TCP: 7001, UDPEcho: 7002, UDPSink: 7003}

const publishedBase = 8001

// A path leads from a client to a server. Addresses that a subject does not carry are invalid.
type path struct {
	tcp, udpEcho, udpSink netip.AddrPort
}

// sandbox is a subject, set up: an agent inside and the ways in and out.
type sandbox struct {
	subject report.Subject
	mtu     int
	inside  *load.Remote
	out     path           // from the agent inside to the host's server
	in      netip.AddrPort // from the host to the agent inside, through a published port
	far     netip.AddrPort // the same at an address that is not loopback, so that the container is to see the client's
	// Of neighbours: their server, the way to it, and its name and where to ask for it.
	server  *load.Remote
	across  netip.AddrPort
	names   netip.AddrPort
	name    string
	pids    []int      // of the process that carries the bytes; none for the kernel
	started []*process // last one first to be stopped
	// failures counts, by the names of steps.
	failures map[string]int
}

func (s *sandbox) String() string {
	if s.subject.HasMTU() {
		return fmt.Sprintf("%s at MTU %d", s.subject, s.mtu)
	}
	return string(s.subject)
}

func (s *sandbox) stop() {
	for i := len(s.started) - 1; i >= 0; i-- {
		s.started[i].stop()
	}
}

// builder sets sandboxes up.
type builder struct {
	dir    string     // programs, and room for sockets
	server load.Ports // on the host's loopback
	next   uint16     // number of the next sandbox
}

func (b *builder) program(name string) string { return filepath.Join(b.dir, name) }

// build sets subject up. On failure nothing is left.
func (b *builder) build(subject report.Subject, mtu int) (*sandbox, error) {
	setUp := map[report.Subject]func(*sandbox, uint16) error{
		report.Kernel: b.kernel, report.Relay: b.relay, report.Usernet: b.usernet,
		report.Slirp: b.slirp, report.Pasta: b.pasta, report.GvisorTap: b.gvisorTap,
	}[subject]
	s := &sandbox{subject: subject, mtu: mtu}
	b.next++
	err := setUp(s, publishedBase+b.next)
	if err == nil && subject.HasMTU() {
		_, err = s.inside.Do(load.Request{Op: load.Listen, Ports: containerPorts})
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("set up %v: %w%s", s, err, s.messages())
	}
	return s, nil
}

// messages are what the programs had to say.
func (s *sandbox) messages() string {
	var all strings.Builder
	for _, p := range s.started {
		if m := p.lastMessage(); m != "" {
			fmt.Fprintf(&all, "; %s says: %s", filepath.Base(p.cmd.Path), m)
		}
	}
	return all.String()
}

// start launches a program of the sandbox.
func (s *sandbox) start(cmd *exec.Cmd) (*process, error) {
	p, err := launch(cmd)
	if err == nil {
		s.started = append(s.started, p)
	}
	return p, err
}

// startAgent launches the agent inside; cmd may put other programs around it.
func (s *sandbox) startAgent(cmd *exec.Cmd) (p *process, err error) {
	p, s.inside, err = launchAgent(cmd)
	if err == nil {
		s.started = append(s.started, p)
	}
	return p, err
}

// publishedAt says that the container's TCP port is published at both addresses of the host.
func (s *sandbox) publishedAt(port uint16) {
	s.in, s.far = netip.AddrPortFrom(hostLoopback, port), netip.AddrPortFrom(rigAddr.Addr(), port)
}

// to is the path to the host's server at an address.
func (b *builder) to(a netip.Addr) path {
	return path{netip.AddrPortFrom(a, b.server.TCP), netip.AddrPortFrom(a, b.server.UDPEcho), netip.AddrPortFrom(a, b.server.UDPSink)}
}

var hostLoopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func (b *builder) kernel(s *sandbox, _ uint16) error {
	s.out = b.to(hostLoopback)
	s.across, s.in, s.far = s.out.tcp, s.out.tcp, s.out.tcp
	_, err := s.startAgent(exec.Command(b.program("bench"), agentRole))
	return err
}

// relay carries TCP only.
func (b *builder) relay(s *sandbox, _ uint16) error {
	if err := b.kernel(s, 0); err != nil {
		return err
	}
	cmd := exec.Command(b.program("relay"), "127.0.0.1:0", b.to(hostLoopback).tcp.String())
	p, err := s.start(cmd)
	if err != nil {
		return err
	}
	s.pids = []int{p.pid()}
	var at netip.AddrPort
	err = p.waitFor("the relay", func() bool {
		word, ok := strings.CutPrefix(p.messages(), "listening ")
		at, _ = netip.ParseAddrPort(word)
		return ok && at.IsValid()
	})
	s.out, s.across, s.in, s.far = path{tcp: at}, at, at, at
	return err
}

// slirpGateway is the gateway of slirp4netns' and of usernet's network: with host loopback allowed, the host's.
var slirpGateway = netip.AddrFrom4([4]byte{10, 0, 2, 2})

func (b *builder) usernet(s *sandbox, published uint16) error {
	p, err := s.startAgent(exec.Command(b.program("usernet"), "run", "--host-loopback", "--mtu", strconv.Itoa(s.mtu),
		"--publish", fmt.Sprintf("127.0.0.1:%d:%d", published, containerPorts.TCP),
		"--publish", fmt.Sprintf("%s:%d:%d", rigAddr.Addr(), published, containerPorts.TCP),
		"--", b.program("bench"), agentRole))
	if err != nil {
		return err
	}
	s.out = b.to(slirpGateway)
	s.publishedAt(published)
	return p.waitFor("the datapath", func() bool {
		pid, ok := descendant(p.pid(), "__datapath")
		s.pids = []int{pid}
		return ok
	})
}

// bare starts the agent in namespaces that have no network yet, as podman leaves them to slirp4netns and pasta.
func (b *builder) bare(s *sandbox) (*process, error) {
	cmd := exec.Command(b.program("bench"), agentRole)
	cmd.SysProcAttr = namespaces()
	return s.startAgent(cmd)
}

func namespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

func (b *builder) slirp(s *sandbox, published uint16) error {
	holder, err := b.bare(s)
	if err != nil {
		return err
	}
	api := b.program(fmt.Sprintf("slirp-%d.sock", published))
	ready, p, err := startSlirp(holder.pid(), s.mtu, s.start, "--api-socket="+api)
	if err != nil {
		return err
	}
	defer ready.Close()
	if err := waitByte(ready); err != nil {
		return err
	}
	s.out, s.pids = b.to(slirpGateway), []int{p.pid()}
	s.publishedAt(published)
	return errors.Join(addHostForward(api, s.in), addHostForward(api, s.far))
}

// startSlirp starts slirp4netns for the namespaces of pid. The pipe becomes readable when it is ready.
func startSlirp(pid, mtu int, start func(*exec.Cmd) (*process, error), more ...string) (ready *os.File, p *process, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	// As podman starts it, IPv6 aside. ExtraFiles begin at 3.
	args := append([]string{"--configure", "--mtu=" + strconv.Itoa(mtu), "--ready-fd=3", "--enable-sandbox", "--enable-seccomp"}, more...)
	cmd := exec.Command("slirp4netns", append(args, strconv.Itoa(pid), "eth0")...)
	cmd.ExtraFiles = []*os.File{w}
	p, err = start(cmd)
	w.Close()
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, p, nil
}

func waitByte(ready *os.File) error {
	_ = ready.SetReadDeadline(time.Now().Add(patience))
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for slirp4netns: %w", err)
	}
	return nil
}

// addHostForward publishes the container's TCP port through slirp4netns' API.
func addHostForward(api string, published netip.AddrPort) error {
	c, err := net.Dial("unix", api)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, `{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":%q,"host_port":%d,"guest_port":%d}}`,
		published.Addr(), published.Port(), containerPorts.TCP)
	if err != nil {
		return fmt.Errorf("add forward: %w", err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	var reply struct{ Error json.RawMessage }
	if err := json.NewDecoder(c).Decode(&reply); err != nil || reply.Error != nil {
		return fmt.Errorf("add forward: %s %w", bytes.TrimSpace(reply.Error), err)
	}
	return nil
}

func (b *builder) pasta(s *sandbox, published uint16) error {
	holder, err := b.bare(s)
	if err != nil {
		return err
	}
	pidFile := b.program(fmt.Sprintf("pasta-%d.pid", published))
	// As podman starts it, but with the gateway mapped to the host.
	p, err := s.start(exec.Command("pasta", "--config-net", "--foreground", "--quiet", "--mtu", strconv.Itoa(s.mtu), "--pid", pidFile,
		// It does not take one port at two addresses, so at all there are.
		"-t", fmt.Sprintf("%d:%d", published, containerPorts.TCP), "-u", "none", "-T", "none", "-U", "none",
		strconv.Itoa(holder.pid())))
	if err != nil {
		return err
	}
	s.out = b.to(rigGateway)
	s.publishedAt(published)
	s.pids = []int{p.pid()}
	// The pid file is written when everything else is done.
	return p.waitFor("pasta", func() bool {
		b, err := os.ReadFile(pidFile)
		return err == nil && len(b) > 0
	})
}

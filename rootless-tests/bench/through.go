package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
	"github.com/usernet/usernet/rootless-tests/programs"
)

// Theory of operation
//
// What podman's user gets is measured through podman: a container of podman 4 with slirp4netns and one with usernet in
// its place, and the same of podman 5 with pasta. podman needs the setuid newuidmap, which does nothing in the rig, so
// this is done outside of it and before it, by the user's step, in a network namespace that looks like the rig's (as root; an
// ordinary user has the machine's own). The server is on the host's loopback there.
//
// podman 5 is of another Debian, whose files only root can enter. So root's step starts a process that does (enterRole),
// becomes the user (otherRole), and waits for its turn: a byte from the user's step. It ends, when it is done or the user's step
// is gone, and the end of a pipe says so. Results are files, which the measuring process puts to its own.

// The hidden first words of the process that enters the other Debian.
const (
	enterRole = "__enter"
	otherRole = "__other"
)

// In the user's step, what gives the other process its turn and what ends with it. Go's runtime may have lower numbers.
const (
	turnFD = 100
	doneFD = 101
)

// through is a podman and a network program that it calls.
type through struct {
	version         int // of podman
	program         string
	network         string // for --network, so that the host's loopback can be reached
	gateway         netip.Addr
	original, taken report.Subject
}

var throughs = []through{
	{4, "slirp4netns", "slirp4netns:allow_host_loopback=true", slirpGateway, report.PodmanSlirp, report.PodmanAsSlirp},
	{5, "pasta", "pasta:--map-gw", rigGateway, report.PodmanPasta, report.PodmanAsPasta},
}

// throughSteps are what is measured.
var throughSteps = []string{"stream up", "stream down", "round trip", "connect"}

func (o *options) wantsThrough() bool {
	return o.wants(report.Podman) && slices.Contains(o.only, throughStep)
}

// file is where the result is put.
func (t through) file(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("through-%d", t.version))
}

// record measures and writes the result, or why there is none.
func (t through) record(dir string, o options) error {
	r := &report.Result{Versions: map[string]string{}}
	if err := t.measure(dir, o, r); err != nil {
		t.fail(r, err)
	}
	return writeFile(t.file(dir), r.Write)
}

func (t through) fail(r *report.Result, err error) {
	r.Fail(t.original, report.PodmanMTU, report.StreamUp, err.Error())
}

// measure has both containers up at once and takes turns, as the rounds in the rig do.
func (t through) measure(dir string, o options, r *report.Result) (err error) {
	p, err := newPodmanHost(dir, filepath.Base(t.file("")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if out, err := exec.Command("podman", "--version").Output(); err == nil {
		r.Versions[fmt.Sprintf("podman %d", t.version)] = strings.TrimSpace(string(out))
	}
	server, host, err := launchAgent(exec.Command(filepath.Join(dir, "bench"), agentRole))
	if err != nil {
		return err
	}
	defer server.stop()
	ports, err := host.Do(load.Request{Op: load.Listen})
	if err != nil {
		return err
	}
	m := &meter{options: o, builder: builder{dir: dir, server: ports.Ports}, host: host, result: r}
	for _, subject := range []report.Subject{t.original, t.taken} {
		s := &sandbox{subject: subject, mtu: report.PodmanMTU, out: m.builder.to(t.gateway)}
		if err := t.container(p, s); err != nil {
			return fmt.Errorf("%s: %w%s", subject, err, s.messages())
		}
		m.sandboxes = append(m.sandboxes, s)
	}
	for round := range o.repeat {
		for _, st := range steps {
			if slices.Contains(throughSteps, st.name) {
				m.takeAll(st, round)
			}
		}
	}
	return nil
}

// container starts the agent in a container of the sandbox's subject. podman.stop ends it.
func (t through) container(p *podmanHost, s *sandbox) error {
	name := "original"
	if s.subject == t.taken {
		name = "usernet"
	}
	conf, err := t.configure(p, name)
	if err != nil {
		return err
	}
	rootfs, err := p.rootfs(name)
	if err != nil {
		return err
	}
	cmd := exec.Command("podman", append(p.flags, "run", "--rm", "--interactive", "--cgroups=disabled", "--log-driver", "none",
		"--network", t.network, "--name", name, "--rootfs", rootfs, "/bench", agentRole)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+conf)
	r, err := s.startAgent(cmd)
	if err != nil {
		return err
	}
	p.runs = append(p.runs, r)
	// The answer to anything shows that it runs.
	_, err = s.inside.Do(load.Request{Op: load.FloodCount})
	return err
}

// configure writes a containers.conf by which podman finds the original, or usernet under its name.
func (t through) configure(p *podmanHost, name string) (string, error) {
	dirs := []string{"/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"}
	text := ""
	if name == "usernet" {
		front := filepath.Join(p.dir, "front")
		if err := os.Mkdir(front, 0o755); err != nil {
			return "", err
		}
		if err := os.Symlink(filepath.Join(filepath.Dir(p.dir), "usernet"), filepath.Join(front, t.program)); err != nil {
			return "", err
		}
		dirs = append([]string{front}, dirs...)
		if t.program == "slirp4netns" {
			text = fmt.Sprintf("network_cmd_path = %q\n", filepath.Join(front, t.program))
		}
	}
	text = fmt.Sprintf("[engine]\nhelper_binaries_dir = [\"%s\"]\n%s", strings.Join(dirs, `", "`), text)
	conf := filepath.Join(p.dir, name+".conf")
	return conf, os.WriteFile(conf, []byte(text), 0o644)
}

// startOther starts the process that enters the other Debian, with what it and the user's step need of each other.
func startOther(uid, gid, dir string, args []string) error {
	turn, turnW, err := os.Pipe()
	if err != nil {
		return err
	}
	done, doneW, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(dir, "bench"), append([]string{enterRole, uid, gid, dir}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = turn, os.Stderr, os.Stderr, []*os.File{doneW}
	// No parent-death signal: this process goes on as the user's step, by an exec that ends the thread that is the parent.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return err
	}
	turn.Close()
	doneW.Close()
	return errors.Join(unix.Dup3(int(turnW.Fd()), turnFD, 0), unix.Dup3(int(done.Fd()), doneFD, 0))
}

// enterOther exchanges the root and goes on as the user.
func enterOther(args []string) error {
	runtime.LockOSThread()
	dir := args[2]
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+rigGateway.String()+"\n"), 0o644); err != nil {
		return err
	}
	if err := programs.Enter(dir, resolv); err != nil {
		return err
	}
	if err := takeIDs(args[0], args[1]); err != nil {
		return err
	}
	self := filepath.Join(dir, "bench")
	return fmt.Errorf("run %s: %w", self, syscall.Exec(self, append([]string{self, otherRole}, args[2:]...), environment(dir)))
}

// measureOther waits for its turn and measures the podman that is here.
func measureOther(dir string, args []string) error {
	syscall.CloseOnExec(resultFD) // podman leaves processes behind; whose end counts is this one's
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
		return nil // the user's step has ended before
	}
	return throughs[1].record(dir, o)
}

// measureThrough measures both podmans, in the user's step.
func measureThrough(dir string, o options) error {
	progress("podman 4 with slirp4netns")
	if err := throughs[0].record(dir, o); err != nil {
		return err
	}
	other := throughs[1]
	progress("podman 5 with pasta")
	if _, err := unix.FcntlInt(turnFD, unix.F_GETFD, 0); err == nil {
		turn, done := os.NewFile(turnFD, "turn"), os.NewFile(doneFD, "done")
		defer turn.Close()
		defer done.Close()
		if _, err := turn.Write([]byte{1}); err == nil {
			_, _ = io.Copy(io.Discard, done)
		}
	}
	if _, err := os.Stat(other.file(dir)); err == nil {
		return nil
	}
	r := &report.Result{}
	other.fail(r, fmt.Errorf("podman %d and its programs are in %s, which was not entered; only root can", other.version, programs.Debian13))
	return writeFile(other.file(dir), r.Write)
}

// addThrough puts what was measured through podman to the result.
func (m *meter) addThrough() error {
	for _, t := range throughs {
		f, err := os.Open(t.file(m.builder.dir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r, err := report.Read(f)
		f.Close()
		if err != nil {
			return err
		}
		m.result.Figures = append(m.result.Figures, r.Figures...)
		for name, v := range r.Versions {
			m.result.Versions[name] = v
		}
	}
	return nil
}

// takeIDs makes this process the user's.
func takeIDs(uid, gid string) error {
	u, err1 := strconv.Atoi(uid)
	g, err2 := strconv.Atoi(gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups([]int{}), syscall.Setgid(g), syscall.Setuid(u)); err != nil {
		return fmt.Errorf("become user %d: %w", u, err)
	}
	return nil
}

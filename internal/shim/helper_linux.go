package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// target is a namespace to attach to, held open.
type target struct {
	name  string   // for people
	path  string   // of the namespace, when it was given by path
	pidfd int      // of the process it was given by; -1 when there is none
	net   *os.File // the network namespace; nil after release
	user  *os.File // the user namespace to enter; nil when it is ours, and after release

	id os.FileInfo // of the network namespace, which the TAP keeps alive: no other can come to have it
}

// openTarget opens and checks what cfg names.
func openTarget(cfg *AttachConfig) (*target, error) {
	t := &target{name: cfg.Netns, path: cfg.Netns, pidfd: -1}
	if err := t.open(cfg); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *target) open(cfg *AttachConfig) (err error) {
	path, pid := cfg.Netns, pidOfPath(cfg.Netns)
	if cfg.PID != 0 {
		t.name, pid, path = "process "+strconv.Itoa(cfg.PID), cfg.PID, fmt.Sprintf("/proc/%d/ns/net", cfg.PID)
	}
	if pid != 0 {
		// First the process, then its namespace: should the pid be reused in between, the process is
		// seen to have ended.
		if t.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			return fmt.Errorf("attach to process %d: %w", pid, err)
		}
	}
	if t.net, err = netns.Open(path); err != nil {
		return fmt.Errorf("attach to %s: %w", t.name, err)
	}
	if t.id, err = t.net.Stat(); err != nil {
		return fmt.Errorf("attach to %s: %w", t.name, err)
	}
	if t.user, err = openUserNamespace(cfg.Userns, t.net); err != nil {
		return fmt.Errorf("attach to %s: %w", t.name, err)
	}
	own, err := sys.SameFile(t.user, "/proc/self/ns/user")
	if err != nil {
		return fmt.Errorf("attach to %s: %w", t.name, err)
	}
	if own {
		t.user.Close()
		t.user = nil
	}
	return nil
}

// pidOfPath is the process that a path such as /proc/4242/ns/net speaks of, or 0. Such a path ends with
// the process; no mount or directory tells of it.
func pidOfPath(path string) int {
	rest, ok := strings.CutPrefix(filepath.Clean(path), "/proc/")
	if !ok {
		return 0
	}
	first, _, _ := strings.Cut(rest, "/")
	pid, _ := strconv.Atoi(first)
	return pid
}

// openUserNamespace opens the one at path, or the one that owns the network namespace.
func openUserNamespace(path string, net *os.File) (*os.File, error) {
	if path != "" {
		f, err := sys.OpenNamespace(path, unix.CLONE_NEWUSER)
		if err != nil {
			return nil, fmt.Errorf("open user namespace %s: %w; give a path such as /proc/PID/ns/user", path, err)
		}
		return f, nil
	}
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("find the user namespace of %s: %w; it belongs to another user or to the host", net.Name(), err)
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

func (t *target) close() {
	if t.pidfd >= 0 {
		unix.Close(t.pidfd)
	}
	t.release()
}

// release closes the namespaces.
func (t *target) release() {
	if t.net != nil {
		t.net.Close()
	}
	if t.user != nil {
		t.user.Close()
	}
	t.net, t.user = nil, nil
}

// Descriptors of the helper, as exec.Cmd.ExtraFiles lays them out.
const (
	helperSocket = 3 + iota
	helperExe
	helperNet
	helperUser
)

// credentials are the ways to have capabilities after nsenter has executed the helper, which loses them
// as any user but root of the namespace: to be its root already, to become it, or to keep the
// capabilities (util-linux 2.39). Which one works depends on the maps of the namespace.
var credentials = [][]string{{"--preserve-credentials"}, nil, {"--preserve-credentials", "--keep-caps"}}

// makeTAP has a helper make the interface inside and returns its TAP.
func (t *target) makeTAP(ctx context.Context, cfg *AttachConfig) (*os.File, tap.Info, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, tap.Info{}, fmt.Errorf("find nsenter: %w; install the package util-linux", exec.ErrNotFound)
	}
	ways := credentials
	if t.user == nil {
		ways = ways[:1]
	}
	var first error
	for _, creds := range ways {
		f, info, err := t.runHelper(ctx, cfg, nsenter, creds)
		if err == nil {
			return f, info, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, errNoCaps) {
			return nil, tap.Info{}, err
		}
	}
	return nil, tap.Info{}, first
}

// errNoCaps says that the helper ran without the rights it needs, or could not be run that way.
var errNoCaps = errors.New("no rights in the namespace")

// noCapsCode is the exit code that stands for it.
const noCapsCode = 77

func (t *target) runHelper(ctx context.Context, cfg *AttachConfig, nsenter string, creds []string) (*os.File, tap.Info, error) {
	ours, its, err := sys.Socketpair()
	if err != nil {
		return nil, tap.Info{}, err
	}
	defer its.Close()
	c, err := newConn(ours)
	if err != nil {
		ours.Close()
		return nil, tap.Info{}, err
	}
	defer c.close()
	path := cfg.Exe
	if path == "" {
		path = "/proc/self/exe"
	}
	// Handed over open: the path may not exist in there, or not be ours to read.
	exe, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, tap.Info{}, err
	}
	defer exe.Close()
	args := append([]string{fmt.Sprintf("--net=/proc/self/fd/%d", helperNet)}, creds...)
	files := []*os.File{its, exe, t.net}
	if t.user != nil {
		args, files = append(args, fmt.Sprintf("--user=/proc/self/fd/%d", helperUser)), append(files, t.user)
	}
	cmd := exec.CommandContext(ctx, nsenter, append(args, fmt.Sprintf("/proc/self/fd/%d", helperExe), TapRole)...)
	var stderr bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr = files, &stderr
	if err := cmd.Start(); err != nil {
		return nil, tap.Info{}, fmt.Errorf("run nsenter: %w", err)
	}
	its.Close() // so that the end of the helper is the end of the socket
	f, info, err := talkToHelper(c, cfg)
	werr := cmd.Wait()
	if err == nil {
		return f, info, nil
	}
	var xe *exec.ExitError
	switch {
	case errors.As(werr, &xe) && xe.ExitCode() == noCapsCode, stderr.Len() > 0:
		return nil, tap.Info{}, fmt.Errorf("enter %s: %w: %s", t.name, errNoCaps, strings.TrimSpace(stderr.String()))
	case errors.Is(err, io.EOF):
		return nil, tap.Info{}, fmt.Errorf("enter %s: the helper ended: %w", t.name, werr)
	}
	return nil, tap.Info{}, err
}

// talkToHelper is the shim's side of Tap.
func talkToHelper(c *conn, cfg *AttachConfig) (*os.File, tap.Info, error) {
	if err := c.send(message{Kind: kindSetup, Setup: &setup{Link: &cfg.Link, Log: cfg.HelperLog}}); err != nil {
		return nil, tap.Info{}, err
	}
	m, err := c.expect(kindTAP)
	if err != nil {
		return nil, tap.Info{}, err
	}
	if m.file == nil || m.Info == nil {
		return nil, tap.Info{}, errors.New("the helper sent no TAP")
	}
	if _, err := c.expect(kindStarted); err != nil {
		m.file.Close()
		return nil, tap.Info{}, err
	}
	return m.file, *m.Info, nil
}

// Tap is the helper's whole life: it makes the interface that the shim at descriptor 3 describes, in
// the namespaces it was executed in, and returns the exit code for the process.
func Tap() int {
	c, err := inheritedConn(helperSocket)
	if err != nil {
		fmt.Fprintf(os.Stderr, "usernet: %s is started by usernet itself: %v\n", TapRole, err)
		return ExitFailure
	}
	defer c.close()
	if !hasNetAdmin() {
		return noCapsCode
	}
	if err := serveTAP(c); err != nil {
		// A shim that is gone needs no reason.
		_ = c.send(message{Kind: kindFailed, Code: ExitFailure, Error: err.Error()})
		return ExitFailure
	}
	return 0
}

func serveTAP(c *conn) error {
	m, err := c.expect(kindSetup)
	if err != nil {
		return err
	}
	if m.Setup == nil || m.Setup.Link == nil {
		return errors.New("message setup has no link")
	}
	s := &sandboxInit{conn: c, log: m.Setup.Log.logger()}
	if err := s.makeNetwork(m.Setup.Link); err != nil {
		return err
	}
	return c.send(message{Kind: kindStarted, PID: os.Getpid()})
}

func hasNetAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

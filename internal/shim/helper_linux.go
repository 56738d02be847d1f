package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap/netns"
)

// The helper that works in the namespaces of others: at the start, and once for each change.
//
// A multi-threaded process cannot enter a user namespace, so nsenter does and executes the helper there. It is
// told one thing by one message, answers, and ends; nothing of ours stays in the namespaces but the interfaces.

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

// run has a helper do what m asks for. talk is the shim's side of the conversation after that.
func (ns *namespaces) run(ctx context.Context, exe string, m message, talk func(*conn) error) error {
	nsenter, err := findTool("nsenter")
	if err != nil {
		return err
	}
	ways := credentials
	if ns.user == nil {
		ways = ways[:1]
	}
	var first error
	for _, creds := range ways {
		err := ns.runHelper(ctx, exe, append([]string{nsenter}, creds...), m, talk)
		if err == nil || !errors.Is(err, errNoCaps) {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// errNoCaps says that the helper ran without the rights it needs, or could not be run that way.
var errNoCaps = errors.New("no rights in the namespace")

// noCapsCode is the exit code that stands for it.
const noCapsCode = 77

func (ns *namespaces) runHelper(ctx context.Context, exe string, nsenter []string, m message, talk func(*conn) error) error {
	c, its, err := socket()
	if err != nil {
		return err
	}
	defer c.close()
	defer its.Close()
	bin, err := openExe(exe)
	if err != nil {
		return err
	}
	defer bin.Close()
	args := append(nsenter[1:], fdArg("net", helperNet))
	files := []*os.File{its, bin, ns.net}
	if ns.user != nil {
		args, files = append(args, fdArg("user", helperUser)), append(files, ns.user)
	}
	cmd := exec.CommandContext(ctx, nsenter[0], append(args, fdPath(helperExe), TapRole)...)
	var stderr bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr = files, &stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run nsenter: %w", err)
	}
	its.Close() // so that the end of the helper is the end of the socket
	if err = c.send(m); err == nil {
		err = talk(c)
	}
	werr := cmd.Wait()
	var xe *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(werr, &xe) && xe.ExitCode() == noCapsCode, stderr.Len() > 0:
		return fmt.Errorf("enter %s: %w: %s", ns.name, errNoCaps, strings.TrimSpace(stderr.String()))
	case errors.Is(err, io.EOF):
		return fmt.Errorf("enter %s: the helper ended: %w", ns.name, werr)
	}
	return err
}

// socket makes a conn, and the other end of it for a process to be started.
func socket() (*conn, *os.File, error) {
	ours, its, err := sys.Socketpair()
	if err != nil {
		return nil, nil, err
	}
	c, err := newConn(ours)
	if err != nil {
		ours.Close()
		its.Close()
		return nil, nil, err
	}
	return c, its, nil
}

// openExe opens the binary at path, or the running one, to be executed where the path may not exist or not be
// ours to read.
func openExe(path string) (*os.File, error) {
	if path == "" {
		path = "/proc/self/exe"
	}
	return os.OpenFile(path, unix.O_PATH, 0)
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// fdArg is the option of nsenter that enters the namespace behind a descriptor.
func fdArg(option string, fd int) string { return "--" + option + "=" + fdPath(fd) }

// makeLinks has a helper make interfaces and routes. It returns a message with each TAP, which are the caller's
// to close.
func (ns *namespaces) makeLinks(ctx context.Context, cfg *AttachConfig) (taps []message, err error) {
	set := &setup{Links: cfg.Links, Routes: cfg.Routes, Bare: cfg.Bare, NoSysctls: cfg.NoSysctls, Log: cfg.HelperLog}
	err = ns.run(ctx, cfg.Exe, message{Kind: kindSetup, Setup: set}, func(c *conn) error {
		for range cfg.Links {
			m, err := c.expect(kindTAP)
			if err != nil {
				return err
			}
			taps = append(taps, m)
			if m.file == nil || m.Info == nil {
				return errors.New("the helper sent no TAP")
			}
		}
		_, err := c.expect(kindStarted)
		return err
	})
	return taps, err
}

// change has a helper make a change. A TAP in the answer is the caller's.
func (ns *namespaces) change(ctx context.Context, cfg *AttachConfig, ch change, file *os.File) (message, error) {
	var m message
	set := &setup{NoSysctls: cfg.NoSysctls, Log: cfg.HelperLog}
	err := ns.run(ctx, cfg.Exe, message{Kind: kindChange, Setup: set, Change: &ch, file: file}, func(c *conn) (err error) {
		m, err = c.expect(kindChanged)
		return err
	})
	if err == nil && m.Error != "" {
		m.close()
		err = errors.New(m.Error)
	}
	if err != nil {
		return message{}, err
	}
	return m, nil
}

// Tap is the helper's whole life: it does what the shim at descriptor 3 asks for, in the namespaces it was
// executed in, and returns the exit code for the process.
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
	if err := help(c); err != nil {
		// A shim that is gone needs no reason.
		_ = c.send(message{Kind: kindFailed, Code: ExitFailure, Error: err.Error()})
		return ExitFailure
	}
	return 0
}

func help(c *conn) error {
	m, err := c.receive()
	if err != nil {
		return err
	}
	defer m.close()
	if m.Setup == nil {
		return fmt.Errorf("message %s has no setup", m.Kind)
	}
	ns := netns.Namespace{NoSysctls: m.Setup.NoSysctls, Log: m.Setup.Log.logger()}
	if m.Kind == kindChange {
		return answer(c, ns, m, func(files []plumb.File) error { return writeBelow(m.file, files) })
	}
	if err := makeNetwork(c, ns, m.Setup); err != nil {
		return err
	}
	return c.send(message{Kind: kindStarted, PID: os.Getpid()})
}

func hasNetAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

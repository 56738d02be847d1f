package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The rig's addresses, of RFC 5737. Nothing answers there; pasta copies them into its container and takes
// its gateway for the host.
var (
	rigAddr    = netip.MustParsePrefix("192.0.2.2/24")
	rigGateway = netip.MustParseAddr("192.0.2.1")
)

// errStopped is the end of a bench that was told to end.
var errStopped = errors.New("stopped")

// runInRig starts the next step in a user and a network namespace. The user stays who it is: programs
// that behave otherwise for root inside a namespace behave as they do for people. inherit are descriptors from
// podmanFDs.
func runInRig(ctx context.Context, dir string, args []string, inherit []*os.File) error {
	uid, gid := os.Getuid(), os.Getgid()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "bench"), append([]string{rigRole, dir}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, append([]*os.File{os.NewFile(resultFD, "result")}, inherit...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); ctx.Err() != nil {
		return errStopped
	} else if err != nil {
		return fmt.Errorf("run in a namespace: %w; unprivileged user namespaces must be allowed", err)
	}
	return nil
}

// makeRig configures the namespace it is in and goes on without capabilities.
func makeRig(dir string, args []string) error {
	// Capabilities belong to threads, and exec takes those of the thread that calls it.
	runtime.LockOSThread()
	if err := configureRig(); err != nil {
		return fmt.Errorf("make rig: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give capabilities up: %w", err)
	}
	if err := raiseDescriptors(); err != nil {
		return err
	}
	self := filepath.Join(dir, "bench")
	err := syscall.Exec(self, append([]string{self, measureRole, dir}, args...), environment(dir))
	return fmt.Errorf("run %s: %w", self, err)
}

// configureRig brings loopback up, and a pair of interfaces with an address and a default route.
func configureRig() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0peer"}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add eth0: %w; the kernel must have veth", err)
	}
	for _, name := range []string{"eth0", "eth0peer"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(rigAddr.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		return fmt.Errorf("add address %v: %w", rigAddr, err)
	}
	route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: rigGateway.AsSlice()}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// raiseDescriptors sets the soft limit to the hard one, outright, so that subjects inherit it.
func raiseDescriptors() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}

// environment is what subjects see: homes and runtime folders below dir, nothing of the caller's.
func environment(dir string) []string {
	return []string{
		"PATH=" + dir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + dir, "XDG_RUNTIME_DIR=" + filepath.Join(dir, "run"), "TMPDIR=" + dir, "LANG=C.UTF-8",
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/shim"
)

// examine runs all checks in an order where the first FAIL is the one to mend first.
func examine(ctx context.Context, a *app) []finding {
	checks := []struct {
		name string
		run  func(context.Context, *app) finding
	}{
		{"/dev/net/tun", checkTUN},
		{"user namespaces", checkSandbox},
		{"ids for --map auto", checkSubordinate},
		{"datapath", checkDatapath},
		{"nsenter", checkNsenter},
		{"ping", checkPing},
		{"low ports", checkLowPorts},
		{"socket buffers", checkBuffers},
		{"open files", checkNoFile},
		{"name servers", checkResolvers},
	}
	var found []finding
	for _, c := range checks {
		f := c.run(ctx, a)
		f.Check = c.name
		found = append(found, f)
		if c.name == "datapath" {
			found = append(found, a.isolation...)
		}
	}
	return found
}

func checkTUN(context.Context, *app) finding {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return ok("can be opened")
	case errors.Is(err, os.ErrNotExist):
		return fail(err.Error(), `as root run "modprobe tun"`)
	case errors.Is(err, os.ErrPermission):
		return fail(err.Error(), `as root run "chmod 666 /dev/net/tun"`)
	}
	return fail(err.Error(), `as root run "modprobe tun"; the kernel needs CONFIG_TUN`)
}

// probeLink is the interface of a sandbox that is made to see whether it can be.
func probeLink() plumb.Link {
	p, err := makePlan(&netOptions{mtu: defaultMTU, ipv6: true}, "doctor", "eth0")
	if err != nil {
		panic(err) // the defaults are right
	}
	return p.link
}

func checkSandbox(ctx context.Context, _ *app) finding {
	info, err := shim.Probe(ctx, shim.MapRoot, probeLink(), "/proc/self/exe", "version")
	if err != nil {
		fix := shim.UserNamespaceHint()
		if fix == "" {
			fix = "see the message; in a container, its seccomp profile may forbid user namespaces"
		}
		return fail(err.Error(), fix)
	}
	if !info.VNet {
		return warn("a sandbox can be made; its TAP has no offloads", "throughput is lower; Linux 2.6.27 and later have IFF_VNET_HDR")
	}
	return ok("a sandbox with a TAP and offloads can be made")
}

func checkSubordinate(context.Context, *app) finding {
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil && os.Geteuid() != 0 {
			return warn(tool+" is not installed; --map auto does not work", "install the package uidmap (shadow-utils)")
		}
	}
	if os.Geteuid() == 0 {
		return ok("root needs none")
	}
	uids, err1 := shim.SubordinateIDs("/etc/subuid")
	gids, err2 := shim.SubordinateIDs("/etc/subgid")
	if err := errors.Join(err1, err2); err != nil {
		what, fix, _ := strings.Cut(strings.Split(err.Error(), "\n")[0], "; ")
		return warn(what+"; --map auto does not work", fix)
	}
	return ok("%d users and %d groups", uids, gids)
}

// checkDatapath starts one, which says how far it could isolate itself.
func checkDatapath(ctx context.Context, a *app) finding {
	p, err := makePlan(&netOptions{mtu: defaultMTU, ipv6: true}, "doctor", "eth0")
	if err != nil {
		return fail(err.Error(), "")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := control.Start(ctx, control.Config{
		Datapath: datapath.Config{Args: []string{"usernet", datapath.Role}, Stderr: a.stdio.Err, Level: slog.LevelWarn},
	})
	if err == nil {
		defer c.Close()
		err = c.Ready(ctx)
	}
	if err == nil {
		err = c.AddNetwork(p.network, nil)
	}
	if err != nil {
		return fail(err.Error(), "see the message")
	}
	r := c.Status().Hello.Confine
	a.isolation = isolation(r)
	if weak := r.Weakened(); len(weak) > 0 {
		return warn(fmt.Sprintf("runs, with %d of its layers of isolation off", len(weak)), "see below")
	}
	return ok("runs, fully isolated")
}

// isolation reports the layers that depend on the kernel.
func isolation(r confine.Report) []finding {
	layer := func(name string, l confine.Layer, fix string) finding {
		f := ok("on")
		if !l.On {
			f = warn("off: "+l.Why, fix)
		}
		f.Check = name
		return f
	}
	return []finding{
		layer("  namespaces", r.Namespaces, "see user namespaces"),
		layer("  Landlock", r.Landlock, `needs Linux 5.13 with "landlock" in the kernel's lsm= list`),
		layer("  seccomp", r.Seccomp, "needs a kernel with CONFIG_SECCOMP_FILTER"),
	}
}

func checkNsenter(context.Context, *app) finding {
	if _, err := exec.LookPath("nsenter"); err != nil {
		return warn("is not installed; usernet attach does not work", "install the package util-linux")
	}
	return ok("is installed")
}

func checkPing(context.Context, *app) finding {
	const fix = `as root run "sysctl -w net.ipv4.ping_group_range='0 2147483647'"`
	b, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
	if err != nil {
		return warn(err.Error(), fix)
	}
	var low, high int
	if _, err := fmt.Sscan(string(b), &low, &high); err != nil {
		return warn("net.ipv4.ping_group_range is "+strings.TrimSpace(string(b)), fix)
	}
	groups, err := os.Getgroups()
	if err != nil {
		return warn(err.Error(), fix)
	}
	for _, g := range append(groups, os.Getegid()) {
		if g >= low && g <= high {
			return ok("group %d may ping", g)
		}
	}
	return warn(fmt.Sprintf("net.ipv4.ping_group_range is %d to %d, without your groups; ping to the outside gets no answer", low, high), fix)
}

func checkLowPorts(context.Context, *app) finding {
	n, err := readInt("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	switch {
	case err != nil:
		return warn(err.Error(), "")
	case n > 80 && os.Geteuid() != 0:
		return warn(fmt.Sprintf("host ports below %d cannot be published", n),
			`publish higher ones, or as root run "sysctl -w net.ipv4.ip_unprivileged_port_start=80"`)
	}
	return ok("host ports from %d can be published", n)
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}

// wantBuffer is a buffer that holds a burst of datagrams at 10 Gbit/s for about a millisecond.
const wantBuffer = 1 << 20

func checkBuffers(context.Context, *app) finding {
	for _, name := range []string{"rmem_max", "wmem_max"} {
		n, err := readInt("/proc/sys/net/core/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a container of an older kernel; then it cannot be changed here either
		}
		if err != nil {
			return warn(err.Error(), "")
		}
		if n < wantBuffer {
			return warn(fmt.Sprintf("net.core.%s is %d; bursts of UDP may be lost", name, n),
				fmt.Sprintf(`as root run "sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d"`, 4*wantBuffer, 4*wantBuffer))
		}
	}
	return ok("at least %d KiB", wantBuffer>>10)
}

// wantFiles is room for 10 000 connections and their published ports.
const wantFiles = 16384

func checkNoFile(context.Context, *app) finding {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return warn(err.Error(), "")
	}
	if l.Max < wantFiles {
		return warn(fmt.Sprintf("at most %d; each connection takes one", l.Max),
			fmt.Sprintf(`raise the hard limit: "* hard nofile %d" in /etc/security/limits.conf`, 4*wantFiles))
	}
	return ok("at most %d", l.Max)
}

func checkResolvers(context.Context, *app) finding {
	const fix = "give servers with --dns, or name some in /etc/resolv.conf"
	rc, err := hostResolv()
	switch {
	case err != nil:
		return warn(err.Error(), fix)
	case len(rc.Nameservers) == 0:
		return warn("/etc/resolv.conf names none", fix)
	}
	return ok("%s", joinAddrs(rc.Nameservers))
}

func joinAddrs(as []netip.Addr) string {
	var ss []string
	for _, a := range as {
		ss = append(ss, a.String())
	}
	return strings.Join(ss, ", ")
}

package netns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/plumb"
)

// Settings that only /proc/sys has. Each of ours is a comfort: where /proc/sys is read-only, as in many
// containers, the network works without, so a failure is a log line. What the user asked for by its
// name is made, or is an error.

// sysctls makes those of the namespace.
func (n Namespace) sysctls() {
	var s settings
	defer s.tell(n.log())
	s.note(congestionPath, unpaced(congestionPath))
	if n.NoSysctls {
		return
	}
	// As Docker sets them: the namespace belongs to its user, so there is nobody to protect low
	// ports from, and ping works without a capability.
	s.set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
	// Whoever closes first keeps a connection's port for a minute, which is 470 connections a second to one service. With
	// timestamps, which Linux and netstack have, it is safe after a second (tcp_tw_reuse of Linux; what it has by itself is for
	// 127.0.0.0/8). Of 16 clients that make one connection after the other, the rate fell to 200 a second after 13 000; out of the
	// container, and through a published port, whose connections come from the container's own address.
	s.set("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
	s.note(pingPath, pingGroups())
}

// congestionPath is the congestion control of the namespace's TCP, which a new namespace has from the host.
const congestionPath = "/proc/sys/net/ipv4/tcp_congestion_control"

// unpaced replaces a congestion control that paces. The way from the container to the datapath has nothing to
// probe for: it loses nothing, and the window of the datapath says how much it takes. BBR measures round trips of 15 µs
// while it is idle and 300 while it is not, and sends at timers, a segment at a time: one stream up carried
// 0.8 of what a plain relay does, four 0.6, for 0.84 s of CPU per GB; without pacing 1.4 to 1.7, 1.0, and 0.43 (MTU
// 1500, Linux 6.18). What congestion there is outside is the business of the datapath's sockets, which have the host's.
//
// CUBIC is for the sake of overlay networks, where a connection goes on to another host. A host that does not allow
// it to users has Reno.
func unpaced(path string) error {
	now, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(now), "bbr") {
		return err
	}
	if write(path, "cubic") == nil {
		return nil
	}
	return write(path, "reno")
}

// linkSysctls makes those of an interface. They are written before it goes up, because accept_dad
// counts at that moment.
func (n Namespace) linkSysctls(l plumb.Link) {
	conf := "/proc/sys/net/ipv6/conf/" + l.Name + "/"
	if _, err := os.Stat(conf); err != nil {
		return // a kernel without IPv6, or an MTU below 1280, which leaves none to the interface
	}
	var s settings
	defer s.tell(n.log())
	if !hasIPv6(l) {
		s.set(conf+"disable_ipv6", "1")
		return
	}
	// Addresses and routes are ours: no second address from the gateway's advertisements (they are
	// for guests that configure themselves), no temporary ones (accept_ra covers both), and the
	// link-local address usable from the first packet rather than after a second of DAD.
	s.set(conf+"disable_ipv6", "0") // a host with default.disable_ipv6=1 passes it on
	s.set(conf+"accept_ra", "0")
	s.set(conf+"autoconf", "0")
	s.set(conf+"accept_dad", "0")
	if n.Own {
		s.set(conf+"forwarding", "0") // a host may pass that on, too
	}
}

// settings remembers those that could not be made: a read-only /proc/sys is a line of the log, not one for each.
type settings struct {
	unset []string
	err   error // of the first
}

func (s *settings) set(path, value string) { s.note(path, write(path, value)) }

func (s *settings) note(path string, err error) {
	if err == nil {
		return
	}
	s.unset = append(s.unset, strings.TrimPrefix(path, "/proc/sys/"))
	if s.err == nil {
		s.err = err
	}
}

func (s *settings) tell(log *slog.Logger) {
	if s.err != nil {
		log.Warn("sysctls not set", "sysctls", strings.Join(s.unset, " "), "err", s.err)
	}
}

// userSysctls makes settings by their names.
func userSysctls(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		path, err := sysctlPath(name)
		if err != nil {
			return err
		}
		if err := write(path, settings[name]); err != nil {
			return readOnly(fmt.Errorf("set sysctl %s to %q: %w", name, settings[name], err))
		}
	}
	return nil
}

// sysctlPath is the file of a setting. As in sysctl(8), dots and slashes change places when the first of
// either is a dot, so that the name of an interface can have dots.
func sysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 || parts[0] != "net" {
		return "", fmt.Errorf("set sysctl %q: it is not one of a network namespace; its name begins with net", name)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return "", fmt.Errorf("set sysctl %q: it is not the name of one; want one such as net.ipv4.conf.eth0.log_martians", name)
		}
	}
	return "/proc/sys/" + path, nil
}

const pingPath = "/proc/sys/net/ipv4/ping_group_range"

// pingGroups lets every group that exists in the user namespace open ping sockets.
func pingGroups() error {
	err := write(pingPath, "0 2147483647")
	if err == nil {
		return nil
	}
	// The kernel refuses a group that is not mapped (EINVAL).
	m, rerr := os.ReadFile("/proc/self/gid_map")
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	low, high, ok := groupRange(m)
	if !ok {
		return err
	}
	return write(pingPath, fmt.Sprintf("%d %d", low, high))
}

// groupRange returns the first and last group to write for a gid_map. The kernel compares groups
// by their ids outside, so the ends are the inner names of the least and the greatest of those,
// provided that the inner names are in order too; else the longest extent must do.
func groupRange(gidMap []byte) (low, high uint64, ok bool) {
	type extent struct{ in, out, n uint64 }
	var least, most, longest extent
	for s := bufio.NewScanner(bytes.NewReader(gidMap)); s.Scan(); {
		var e extent
		if _, err := fmt.Sscan(s.Text(), &e.in, &e.out, &e.n); err != nil || e.n == 0 {
			continue
		}
		if !ok || e.out < least.out {
			least = e
		}
		if !ok || e.out > most.out {
			most = e
		}
		if e.n > longest.n {
			longest = e
		}
		ok = true
	}
	if !ok {
		return 0, 0, false
	}
	low, high = least.in, most.in+most.n-1
	if low > high {
		low, high = longest.in, longest.in+longest.n-1
	}
	// The sysctl's own upper end.
	return low, min(high, 1<<31-1), true
}

func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// gvisor-tap-vsock as a network for containers is a driver of rootlesskit, since its version 3, which runs in
// rootlesskit's own process. Distributions do not have that version yet, so it is measured where somebody has
// installed it.
//
// rootlesskit makes its user namespace with newuidmap and newgidmap, and these, which are setuid, do nothing in the
// rig's. One id is all that the rig has and the agent wants; that one a process may map by itself. So rootlesskit finds
// this program under both names, which does it (mapSelf).

// gvisorTapSince is the first version of rootlesskit with the driver.
const gvisorTapSince = 3

// gvisorTapGateway is what the driver leads to the host's loopback.
var gvisorTapGateway = netip.AddrFrom4([4]byte{10, 0, 2, 1})

// rootlesskitVersion reads what `rootlesskit --version` says: "rootlesskit version 3.0.1", maybe with more behind it.
func rootlesskitVersion(said string) (version string, major int, err error) {
	word, ok := strings.CutPrefix(strings.TrimSpace(said), "rootlesskit version ")
	version, _, _ = strings.Cut(word, "\n")
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	major, err = strconv.Atoi(first)
	if !ok || err != nil {
		return "", 0, fmt.Errorf("read version of rootlesskit: %q", said)
	}
	return version, major, nil
}

// gvisorTapMissing is why gvisor-tap-vsock cannot be measured here; the empty string when it can.
func gvisorTapMissing() string {
	const wanted = "gvisor-tap-vsock was not measured: it needs rootlesskit 3, "
	out, err := exec.Command("rootlesskit", "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return wanted + "and rootlesskit is not installed"
	}
	if err != nil {
		return wanted + "and rootlesskit does not run: " + err.Error()
	}
	version, major, err := rootlesskitVersion(string(out))
	if err != nil {
		return wanted + "and that is not known of the one here: " + err.Error()
	}
	if major < gvisorTapSince {
		return wanted + "and " + version + " is installed"
	}
	return ""
}

// dropMissing takes gvisor-tap-vsock from the subjects where it cannot be measured, and notes why.
func (m *meter) dropMissing() {
	if !m.wants(report.GvisorTap) {
		return
	}
	if why := gvisorTapMissing(); why != "" {
		m.subjects = slices.DeleteFunc(slices.Clone(m.subjects), func(s report.Subject) bool { return s == report.GvisorTap })
		m.result.Notes = append(m.result.Notes, why)
		delete(m.result.Versions, "rootlesskit")
	}
}

// gvisorTap starts the agent under rootlesskit.
func (b *builder) gvisorTap(s *sandbox, published uint16) error {
	path, err := b.ownMappers()
	if err != nil {
		return err
	}
	to := fmt.Sprintf(":%d:%d/tcp", published, containerPorts.TCP)
	cmd := exec.Command("rootlesskit", "--state-dir", b.program(fmt.Sprintf("rootlesskit-%d", published)), "--copy-up", "/etc",
		"--net", "gvisor-tap-vsock", "--mtu", strconv.Itoa(s.mtu), "--port-driver", "gvisor-tap-vsock",
		"--publish", hostLoopback.String()+to, "--publish", rigAddr.Addr().String()+to,
		b.program("bench"), agentRole)
	cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
	p, err := s.startAgent(cmd)
	if err != nil {
		return err
	}
	s.out, s.pids = b.to(gvisorTapGateway), []int{p.pid()}
	s.publishedAt(published)
	return nil
}

// The names that rootlesskit maps ids by, and the files that say them.
var mapFiles = map[string]string{"newuidmap": "uid_map", "newgidmap": "gid_map"}

// ownMappers is a directory in which this program has those names.
func (b *builder) ownMappers() (string, error) {
	dir := b.program("mappers")
	if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
		return dir, nil
	} else if err != nil {
		return "", err
	}
	for name := range mapFiles {
		if err := os.Symlink(b.program("bench"), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// mapSelf is newuidmap or newgidmap for one id: args are a process and what to map, of which the first range holds.
func mapSelf(file string, args []string) error {
	if len(args) < 4 {
		return errors.New("map ids: want a process and a range")
	}
	dir := filepath.Join("/proc", args[0])
	if file == "gid_map" {
		// Who is not root may map a group when none can be dropped: user_namespaces(7).
		if err := os.WriteFile(filepath.Join(dir, "setgroups"), []byte("deny"), 0); err != nil {
			return fmt.Errorf("map ids: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(args[1]+" "+args[2]+" 1"), 0); err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	return nil
}

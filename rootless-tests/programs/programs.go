// Package programs knows what the tests and the bench need beside Go, and which packages of Debian have it.
//
// This is the only list, beside that of what another Debian has (root.go). What is missing is installed where that can
// be done, by root with apt-get; elsewhere the error names the packages, and nothing goes on with less.
package programs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Purpose is what programs are needed for.
type Purpose string

// The purposes.
const (
	Race         Purpose = "race"         // the race detector, which links C
	Instructions Purpose = "instructions" // rootless-tests/instructions
	Tests        Purpose = "tests"        // rootless-tests
	Bench        Purpose = "bench"        // rootless-tests/bench
)

// needed has, for each purpose, programs and the packages they are in. A name that begins with a slash is a file.
var needed = map[Purpose]map[string]string{
	Race: {
		"gcc": "gcc", "/usr/include/stdlib.h": "libc6-dev",
	},
	Instructions: {
		"valgrind": "valgrind", "taskset": "util-linux",
	},
	Tests: {
		"cp": "coreutils", "cat": "coreutils", "ls": "coreutils",
		"sysctl": "procps",
		"ip":     "iproute2", "ss": "iproute2", "tc": "iproute2",
		"iptables":  "iptables",
		"nsenter":   "util-linux",
		"newuidmap": "uidmap", "newgidmap": "uidmap",
		"ping": "iputils-ping", "traceroute": "traceroute",
		"tcpdump": "tcpdump", "strace": "strace",
		"curl": "curl", "iperf3": "iperf3", "dig": "bind9-dnsutils", "socat": "socat",
		"busybox": "busybox-static", "podman": "podman", "buildah": "buildah",
		"dhclient": "isc-dhcp-client", "rdisc6": "ndisc6",
		"docker": "docker.io", "slirp4netns": "slirp4netns", "rootlesskit": "rootlesskit",
		"/usr/lib/podman/aardvark-dns": "aardvark-dns", "/usr/lib/podman/netavark": "netavark",
	},
	Bench: {
		"slirp4netns": "slirp4netns", "pasta": "passt", "iperf3": "iperf3", "podman": "podman",
		"newuidmap": "uidmap", "newgidmap": "uidmap", "iptables": "iptables",
		"/usr/lib/podman/aardvark-dns": "aardvark-dns", "/usr/lib/podman/netavark": "netavark",
	},
}

// alone are the packages of which only the program is wanted, with where it is in them: installing docker.io would
// start a daemon.
var alone = map[string]string{"docker.io": "usr/bin/docker"}

// placed is where the programs of alone are put.
const placed = "/usr/local/bin"

// Provide installs what is missing for the purposes, and says so on w.
func Provide(w io.Writer, purposes ...Purpose) error {
	// A user's PATH may lack these, and programs of root are among the needed.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	missing, err := Missing(purposes...)
	if err == nil && len(missing) > 0 {
		err = install(w, missing, purposes)
	}
	if err != nil || !wantsRoot(purposes) || haveRoot() {
		return err
	}
	return provideRoot(w)
}

// wantsRoot reports whether one of the purposes needs programs of another Debian than the machine's.
func wantsRoot(purposes []Purpose) bool {
	return slices.Contains(purposes, Tests) || slices.Contains(purposes, Bench)
}

// install installs packages, and looks whether the purposes have what they need then.
func install(w io.Writer, missing []string, purposes []Purpose) error {
	list := strings.Join(missing, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("find programs: not installed: %s; install these packages, as root on Debian by `apt-get install %[1]s`", list)
	}
	fmt.Fprintln(w, "installing", list)
	// go test ./... has several at it, and apt-get does not wait for another one.
	lock, err := lockCache()
	if err != nil {
		return err
	}
	defer lock.Close()
	run := func(dir, name string, args ...string) error {
		c := exec.Command(name, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w; install by hand: %s\n%s", filepath.Base(name), args[0], err, list, out)
		}
		return nil
	}
	if err := run("", apt, "update", "-q"); err != nil {
		return err
	}
	var whole []string
	for _, p := range missing {
		if alone[p] == "" {
			whole = append(whole, p)
		} else if err := extract(p, func(dir string, args ...string) error { return run(dir, args[0], args[1:]...) }); err != nil {
			return err
		}
	}
	if len(whole) > 0 {
		if err := run("", apt, append([]string{"install", "-qy", "--no-install-recommends"}, whole...)...); err != nil {
			return err
		}
	}
	missing, err = Missing(purposes...)
	if err == nil && len(missing) > 0 {
		err = errors.New("find programs: not found although their packages are installed: " + strings.Join(missing, " "))
	}
	return err
}

// extract takes the one program out of a package, which it does not install.
func extract(p string, run func(dir string, args ...string) error) error {
	dir, err := os.MkdirTemp("", "programs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// apt's own user, which fetches, has to write there.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	if err := run(dir, "apt-get", "download", p); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, p+"_*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("download %s: found %d files", p, len(files))
	}
	if err := run(dir, "dpkg-deb", "-x", files[0], dir); err != nil {
		return err
	}
	return run(dir, "install", "-m", "0755", filepath.Join(dir, alone[p]), placed)
}

// Missing returns the packages of what is not there, sorted.
func Missing(purposes ...Purpose) (packages []string, err error) {
	for _, purpose := range purposes {
		if needed[purpose] == nil {
			return nil, fmt.Errorf("find programs: no purpose %q; there are %s, %s, %s and %s", purpose, Race, Instructions, Tests, Bench)
		}
		for program, p := range needed[purpose] {
			if !found(program) && !slices.Contains(packages, p) {
				packages = append(packages, p)
			}
		}
	}
	slices.Sort(packages)
	return packages, nil
}

func found(program string) bool {
	if strings.HasPrefix(program, "/") {
		_, err := os.Stat(program)
		return err == nil
	}
	_, err := exec.LookPath(program)
	return err == nil
}

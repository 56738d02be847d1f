// Package programs knows what the tests and the bench need beside Go, and which packages of Debian have it.
//
// This is the only list. What is missing is installed where that can be done, by root with apt-get; elsewhere
// the error names the packages, and nothing goes on with less.
package programs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Purpose is what programs are needed for.
type Purpose string

// The purposes.
const (
	Race  Purpose = "race"  // the race detector, which links C
	Tests Purpose = "tests" // rootless-tests
	Bench Purpose = "bench" // rootless-tests/bench
)

// needed has, for each purpose, programs and the packages they are in. A name that begins with a slash is a file.
var needed = map[Purpose]map[string]string{
	Race: {
		"gcc": "gcc", "/usr/include/stdlib.h": "libc6-dev",
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
		"busybox": "busybox-static", "podman": "podman",
		"dhclient": "isc-dhcp-client", "rdisc6": "ndisc6",
	},
	Bench: {
		"slirp4netns": "slirp4netns", "pasta": "passt", "iperf3": "iperf3",
	},
}

// Provide installs what is missing for the purposes, and says so on w.
func Provide(w io.Writer, purposes ...Purpose) error {
	// A user's PATH may lack these, and programs of root are among the needed.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	missing, err := Missing(purposes...)
	if err != nil || len(missing) == 0 {
		return err
	}
	list := strings.Join(missing, " ")
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("find programs: not installed: %s; install these packages, as root on Debian by `apt-get install %[1]s`", list)
	}
	fmt.Fprintln(w, "installing", list)
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--no-install-recommends"}, missing...)} {
		c := exec.Command(apt, args...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w; install by hand: %s\n%s", args[0], err, list, out)
		}
	}
	if missing, err = Missing(purposes...); err == nil && len(missing) > 0 {
		err = errors.New("find programs: not found although their packages are installed: " + strings.Join(missing, " "))
	}
	return err
}

// Missing returns the packages of what is not there, sorted.
func Missing(purposes ...Purpose) (packages []string, err error) {
	for _, purpose := range purposes {
		if needed[purpose] == nil {
			return nil, fmt.Errorf("find programs: no purpose %q; there are %s, %s and %s", purpose, Race, Tests, Bench)
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

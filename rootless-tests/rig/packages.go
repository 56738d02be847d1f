package rig

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tools are the programs that the tests use, and the Debian packages that have them.
var tools = map[string]string{
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
}

// installTools installs what is missing where that can be done.
func installTools() error {
	// A user's PATH may lack these, and programs of root are among the tools.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	missing := missingTools()
	if len(missing) == 0 {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("programs are missing and there is no apt-get to install them; install what Debian has in the packages: %s",
			strings.Join(missing, " "))
	}
	fmt.Fprintln(os.Stderr, "rig: installing", strings.Join(missing, " "))
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--no-install-recommends"}, missing...)} {
		c := exec.Command(apt, args...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w; install by hand: %s\n%s", args[0], err, strings.Join(missing, " "), out)
		}
	}
	if missing := missingTools(); len(missing) > 0 {
		return fmt.Errorf("packages are installed but their programs are not found: %s", strings.Join(missing, " "))
	}
	return nil
}

// missingTools returns the packages of the programs that are not there.
func missingTools() (packages []string) {
	for program, p := range tools {
		if _, err := exec.LookPath(program); err != nil && !slices.Contains(packages, p) {
			packages = append(packages, p)
		}
	}
	slices.Sort(packages)
	return packages
}

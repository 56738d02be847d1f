package pesto

import "fmt"

// versionText begins as the original's does; the date is that of the contract this follows.
const versionText = "pesto 2026_07_23 (usernet)\n"

// usage is what --help prints, and what a command line that cannot be read gets. Callers look for options in it.
func usage(program string) string {
	return fmt.Sprintf("Usage: %s [OPTION]... PATH\n%s", program, optionHelp)
}

const optionHelp = `
Change or show the port forwarding of the pasta whose --conf-path is PATH.
Without -A, -D and -C the SPECs given replace the rules there are.

  -A, --add		Add the SPECs that follow
  -D, --delete		Delete the SPECs that follow
  -C, --clear PIF	Delete all rules of PIF: HOST or SPLICE
  -t, --tcp-ports SPEC	TCP ports of the host, forwarded to the namespace
    can be specified multiple times
    SPEC can be:
      'none': no ports
      [ADDR[%IFACE]/]PORTS: listen on ADDR and IFACE, or on all
        PORTS is a comma-separated list of ports and ranges of ports,
        each followed by :TARGET, where TARGET is a port or range,
        an address, or ADDR/PORTS; 'all' stands for every port that is
        not ephemeral, 'auto' for following what the namespace listens
        to, and '~' excludes a port or range.
        Examples:
        -t 22		Forward port 22 to 22
        -t 22:23	Forward port 22 to 23
        -t 22-80:32-90	Forward ports 22 to 80 to ports 10 higher
        -t 192.0.2.1/5	Forward port 5 of 192.0.2.1
        -t 5-25,~10-20	Forward ports 5 to 9, and 21 to 25
        -t 0.0.0.0/80:10.89.0.2/8080
			Forward port 80 to port 8080 of 10.89.0.2
        -t auto		Forward the ports that are bound in the namespace
  -u, --udp-ports SPEC	UDP ports, as above
  -T, --tcp-ns SPEC	TCP ports of the namespace's loopback, forwarded
    to the host's loopback
  -U, --udp-ns SPEC	UDP ports, as above
  -s, --show		Show the rules before and after
  -d, --debug		Print debugging messages
  -h, --help		Display this help message and exit
  --version		Show version and exit
`

package pasta

import "fmt"

// versionText begins as the original's does, with the date of the contract that this follows: callers compare it with
// the date of a feature that they need.
const versionText = "pasta 2026_07_23 (usernet)\n"

// usage is what --help prints, and what a command line that cannot be read gets. Callers look for options in it.
func usage(program string) string {
	return fmt.Sprintf(`Usage: %[1]s [OPTION]... [COMMAND] [ARGS]...
       %[1]s [OPTION]... PID
       %[1]s [OPTION]... --netns [PATH|NAME]
`, program) + helpGeneral + helpNetwork + helpPorts + helpNamespace
}

const helpGeneral = `
Without PID or --netns, run COMMAND, or a shell, in a new network and
user namespace, connected to the outside.

  -d, --debug		Log what happens
      --trace		As --debug, and more of it
  -q, --quiet		Don't print informational messages
  -f, --foreground	Don't run in background
    default: run in background once the network works
  -l, --log-file PATH	Log (only) to PATH
  --log-size BYTES	Maximum size of the log file
    default: 1 MiB
  --runas UID|UID:GID 	Run as given UID, GID, which can be
    numeric, or login and group names, when started as root
    default: drop to user "nobody"
  -c, --conf-path PATH	Socket for pesto, which changes ports
  -h, --help		Display this help message and exit
  --version		Show version and exit
  -p, --pcap FILE	Write the traffic of the interface to FILE
  -P, --pid FILE	Write own PID to FILE
`

const helpNetwork = `  -I, --ns-ifname NAME	Name of the interface in the namespace
    default: that of the host's interface
  -m, --mtu MTU	MTU of the interface
    default: 65520
  -a, --address ADDR	Assign IPv4 or IPv6 address ADDR[/PREFIXLEN]
    can be specified zero to two times (for IPv4 and IPv6)
    default: the addresses of the interface with default route
  -n, --netmask MASK	IPv4 netmask, dot-decimal or bits
    default: that of the address on the host
  -M, --mac-addr ADDR	MAC address of the gateway
    default: 9a:55:9a:55:9a:55
  -g, --gateway ADDR	IPv4 or IPv6 address of the gateway
    can be specified zero to two times (for IPv4 and IPv6)
    default: that of the interface with default route
  -i, --interface NAME	Interface to take addresses and routes from
    default: from --outbound-if4 and --outbound-if6, if any,
             otherwise the interface with default route
  -o, --outbound ADDR	Source address of connections to the outside
    can be specified zero to two times (for IPv4 and IPv6)
  --outbound-if4 NAME	Interface that IPv4 leaves by
  --outbound-if6 NAME	Interface that IPv6 leaves by
  -D, --dns ADDR	Name server; "none" for no name servers
    can be specified multiple times
  -S, --search LIST	Search domains; "none" for none
  -H, --hostname NAME 	Host name to give by DHCP
  --fqdn NAME		Full name to give by DHCP
  --dhcp-dns		Pass name servers by DHCP, DHCPv6, NDP
  --dhcp-search		Pass search domains by DHCP, DHCPv6, NDP
  --map-host-loopback ADDR	ADDR stands for the host's loopback
    can be specified zero to two times (for IPv4 and IPv6)
    default: gateway address; "none" for none
  --map-guest-addr ADDR	ADDR stands for the host's own address
    can be specified zero to two times (for IPv4 and IPv6)
    default: none
  --dns-forward ADDR	Forward DNS queries sent to ADDR
    can be specified zero to two times (for IPv4 and IPv6)
    default: don't forward DNS queries
  --dns-host ADDR	Name server of the host to forward to
    default: first nameserver from the host's /etc/resolv.conf
  --no-tcp		No TCP
  --no-udp		No UDP
  --no-icmp		No ICMP and ICMPv6
  --no-dhcp		No DHCP server
  --no-ndp		No neighbour discovery
  --no-dhcpv6		No DHCPv6 server
  --no-ra		No router advertisements
  --no-map-gw		The gateway's address doesn't stand for the host
  --chroot-fallback	Accepted, has no effect
  -4, --ipv4-only	No IPv6
  -6, --ipv6-only	No IPv4
`

const helpPorts = `  -t, --tcp-ports SPEC	TCP ports of the host, forwarded to the namespace
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
        -t all		Forward all ports
        -t ::1/all	Forward all ports from local address ::1
        -t 22		Forward port 22 to 22
        -t 22:23	Forward port 22 to 23
        -t 22,25	Forward ports 22, 25 to ports 22, 25
        -t 22-80	Forward ports 22 to 80
        -t 22-80:32-90	Forward ports 22 to 80 to ports 10 higher
        -t 192.0.2.1/5	Forward port 5 of 192.0.2.1
        -t 5-25,~10-20	Forward ports 5 to 9, and 21 to 25
        -t ~25		Forward all ports except for 25
        -t auto		Forward the ports that are bound in the namespace
        -t 80-82,auto	Forward ports 80 to 82 while they are bound there
    default: auto
  -u, --udp-ports SPEC	UDP ports, as above
    default: auto
  -T, --tcp-ns SPEC	TCP ports of the namespace's loopback, forwarded
    to the host's loopback
    default: auto
  -U, --udp-ns SPEC	UDP ports, as above
    default: auto
  --host-lo-to-ns-lo	Connections to the host's loopback come in on
			the namespace's loopback
  --no-splice		No short cut for connections over loopback
  --splice-only		Only forward loopback to loopback
`

const helpNamespace = `  --userns NSPATH 	User namespace to join
  --netns PATH|NAME	Network namespace to join
  --netns-only		Don't join a user namespace
    implied if PATH or NAME are given without --userns
  --no-netns-quit	Don't quit if the path of the network
			namespace is deleted
  --config-net		Give the interface addresses and routes
  --no-copy-routes	DEPRECATED: Don't copy all routes
  --no-copy-addrs	DEPRECATED: Don't copy all addresses
  --ns-mac-addr ADDR	MAC address of the interface in the namespace
`

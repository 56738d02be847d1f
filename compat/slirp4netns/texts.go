package slirp4netns

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/internal/version"
)

// contractVersion is the release of slirp4netns whose options and behaviour these are.
const contractVersion = "1.3.1"

// help has the words that callers look for: podman and rootlesskit find out by it what there is.
const help = `User-mode networking for unprivileged network namespaces.

-c, --configure          bring up the interface
-e, --exit-fd=FD         specify the FD for terminating slirp4netns
-r, --ready-fd=FD        specify the FD to write to when the network is configured
-m, --mtu=MTU            specify MTU (default=1500, max=65521)
-6, --enable-ipv6        enable IPv6
-a, --api-socket=PATH    specify API socket path
--cidr=CIDR              specify network address CIDR (default=10.0.2.0/24)
--disable-host-loopback  prohibit connecting to 127.0.0.1:* on the host namespace
--netns-type=TYPE        specify network namespace type ([path|pid|tapfd], default=pid)
--userns-path=PATH       specify user namespace path
--enable-sandbox         accepted: what moves packets is always in namespaces of its own, without files or capabilities
--enable-seccomp         accepted: system calls are always limited
--outbound-addr=IPv4     sets outbound ipv4 address, or interface, to bind to
--outbound-addr6=IPv6    sets outbound ipv6 address, or interface, to bind to
--disable-dns            disables 10.0.2.3 (or configured internal ip) to host dns redirect
--macaddress=MAC         specify the MAC address of the TAP (only valid with -c)
--target-type=TYPE       specify the target type ([netns|bess], default=netns)
-h, --help               show this help and exit
-v, --version            show version and exit
`

func usageText(program string) string {
	return fmt.Sprintf("Usage: %s [OPTION]... PID|PATH|FD [TAPNAME]\n%s", program, help)
}

// versionText has the lines that callers read; SLIRP_CONFIG_VERSION_MAX tells them of --outbound-addr (2) and
// --disable-dns (3).
func versionText() string {
	return fmt.Sprintf("slirp4netns version %s\ncommit: usernet %s%s\nlibslirp: none, this is usernet\n"+
		"SLIRP_CONFIG_VERSION_MAX: 4\nlibseccomp: none, this is usernet\n", contractVersion, version.Number, version.Revision())
}

// banner is what the original says when it starts to work.
func banner(o *options, a addressing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Starting slirp\n")
	mask := maskOf(o.cidr)
	for _, line := range [][2]any{
		{"MTU", o.mtu}, {"Network", o.cidr.Addr()}, {"Netmask", mask}, {"Gateway", a.gateway}, {"DNS", a.dns},
		{"DHCP begin", a.lease}, {"DHCP end", a.leaseEnd}, {"Recommended IP", a.guest},
	} {
		fmt.Fprintf(&b, "* %-17s%v\n", fmt.Sprint(line[0], ":"), line[1])
	}
	if o.apiSocket != "" {
		fmt.Fprintf(&b, "* %-17s%s\n", "API Socket:", o.apiSocket)
	}
	for _, line := range []struct {
		name string
		addr netip.Addr
	}{{"Outbound IPv4:", o.out4}, {"Outbound IPv6:", o.out6}} {
		if line.addr.IsValid() {
			fmt.Fprintf(&b, "* %-18s%v\n", line.name, line.addr)
		}
	}
	if !o.noHostLoopback {
		fmt.Fprintf(&b, "WARNING: 127.0.0.1:* on the host is accessible as %s (set --disable-host-loopback to prohibit "+
			"connecting to 127.0.0.1:*)\n", a.gateway)
	}
	return b.String()
}

package pasta

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/stack/l2"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestOptions has every option there is.
func TestOptions(t *testing.T) {
	tests := []struct {
		args string
		want func(*Options)
	}{
		{"", func(o *Options) {}},
		{"-d", func(o *Options) { o.Debug, o.Quiet = true, false }},
		{"--debug", func(o *Options) { o.Debug, o.Quiet = true, false }},
		{"--trace", func(o *Options) { o.Debug, o.Trace, o.Quiet = true, true, false }},
		{"-d -q", func(o *Options) { o.Quiet = true }},
		{"-q --trace", func(o *Options) { o.Debug, o.Trace, o.Quiet = true, true, false }},
		{"-q 77", func(o *Options) { o.Quiet, o.PID, o.Foreground = true, 77, false }},
		{"-f 77", func(o *Options) { o.Foreground, o.PID, o.Quiet = true, 77, false }},
		{"--foreground 77", func(o *Options) { o.PID, o.Quiet = 77, false }},
		{"-e 77", func(o *Options) {
			o.Warnings, o.PID, o.Foreground, o.Quiet = []string{"--stderr will be dropped soon"}, 77, false, false
		}},
		{"--log-file /x --log-size 8192", func(o *Options) { o.LogFile, o.LogSize = "/x", 8192 }},
		{"-l /x", func(o *Options) { o.LogFile = "/x" }},
		{"--runas 1:2", func(o *Options) { o.RunAs = "1:2" }},
		{"-P pid", func(o *Options) { o.PIDFile = "pid" }},
		{"--pid=pid", func(o *Options) { o.PIDFile = "pid" }},
		{"-c conf", func(o *Options) { o.ConfPath = "conf" }},
		{"--conf-path conf", func(o *Options) { o.ConfPath = "conf" }},
		{"-p a.pcap", func(o *Options) { o.Pcap = "a.pcap" }},
		{"--pcap=a.pcap", func(o *Options) { o.Pcap = "a.pcap" }},
		{"-i eth1", func(o *Options) { o.Interface = "eth1" }},
		{"--interface eth1", func(o *Options) { o.Interface = "eth1" }},
		{"-o 192.0.2.9 -o 2001:db8::9", func(o *Options) { o.Outbound4, o.Outbound6 = addr("192.0.2.9"), addr("2001:db8::9") }},
		{"--outbound 127.0.0.1", func(o *Options) { o.Outbound4 = addr("127.0.0.1") }},
		{"--outbound-if4 a --outbound-if6 b", func(o *Options) { o.OutboundIf4, o.OutboundIf6 = "a", "b" }},
		{"-I tap7", func(o *Options) { o.IfName = "tap7" }},
		{"--ns-ifname=tap7", func(o *Options) { o.IfName = "tap7" }},
		{"--ns-mac-addr 02:00:00:00:00:01", func(o *Options) { o.NSMAC = l2.MAC{2, 0, 0, 0, 0, 1} }},
		{"-M 02:00:00:00:00:02", func(o *Options) { o.MAC = l2.MAC{2, 0, 0, 0, 0, 2} }},
		{"--mac-addr 02:00:00:00:00:02", func(o *Options) { o.MAC = l2.MAC{2, 0, 0, 0, 0, 2} }},
		{"-m 1500", func(o *Options) { o.MTU = 1500 }},
		{"--mtu 0x5dc", func(o *Options) { o.MTU = 1500 }},
		{"--mtu=0", func(o *Options) { o.MTU = 0 }},
		{"-a 10.0.2.100", func(o *Options) { o.Addr4 = addr("10.0.2.100") }},
		{"-a 10.0.2.100/25", func(o *Options) { o.Addr4, o.Bits4 = addr("10.0.2.100"), 25 }},
		{"-n 24 -a 10.0.2.100", func(o *Options) { o.Addr4, o.Bits4 = addr("10.0.2.100"), 24 }},
		{"-a 10.0.2.100 -n 255.255.240.0 -a fd00::9", func(o *Options) { o.Addr4, o.Bits4, o.Addr6 = addr("10.0.2.100"), 20, addr("fd00::9") }},
		{"--address=fd00::9/112 --netmask=8", func(o *Options) { o.Addr6, o.Bits6, o.Bits4 = addr("fd00::9"), 112, 8 }},
		{"-a ::ffff:10.0.2.100", func(o *Options) { o.Addr4 = addr("10.0.2.100") }},
		{"-g 10.0.2.2 -g fe80::2", func(o *Options) { o.Gateway4, o.Gateway6 = addr("10.0.2.2"), addr("fe80::2") }},
		{"--gateway 10.0.2.2", func(o *Options) { o.Gateway4 = addr("10.0.2.2") }},
		{"-4", func(o *Options) { o.NoIPv6 = true }},
		{"--ipv6-only", func(o *Options) { o.NoIPv4 = true }},
		{"-6 --ipv4-only", func(o *Options) { o.NoIPv6 = true }},
		{"--config-net", func(o *Options) { o.ConfigNet, o.NoRA = true, true }},
		{"--config-net --no-copy-routes --no-copy-addrs", func(o *Options) {
			o.ConfigNet, o.NoRA, o.NoCopyRoutes, o.NoCopyAddrs = true, true, true, true
			o.Warnings = []string{"--no-copy-routes will be dropped soon", "--no-copy-addrs will be dropped soon"}
		}},
		{"-D 9.9.9.9 --dns 2620:fe::fe", func(o *Options) { o.DNS = []netip.Addr{addr("9.9.9.9"), addr("2620:fe::fe")} }},
		{"--dns-forward 169.254.1.1 -D 9.9.9.9 -D none", func(o *Options) { o.NoDNS = true }},
		{"-D none -D 9.9.9.9", func(o *Options) { o.DNS = []netip.Addr{addr("9.9.9.9")} }},
		{"--dns-forward 169.254.1.1 --dns-forward fd00::3", func(o *Options) { o.DNSForward4, o.DNSForward6 = addr("169.254.1.1"), addr("fd00::3") }},
		{"--dns-host 127.0.0.53 --dns-host ::1", func(o *Options) { o.DNSHost4, o.DNSHost6 = addr("127.0.0.53"), addr("::1") }},
		{"-S example.org -S lan", func(o *Options) { o.Search = []string{"example.org", "lan"} }},
		{"--search none", func(o *Options) { o.NoSearch = true }},
		{"-H web --fqdn web.example.org", func(o *Options) { o.Hostname, o.FQDN = "web", "web.example.org" }},
		{"--hostname web", func(o *Options) { o.Hostname = "web" }},
		{"--dhcp-dns --dhcp-search", func(o *Options) { o.DHCPDNS, o.DHCPSearch = true, true }},
		{"--no-tcp", func(o *Options) { o.NoTCP = true }},
		{"--no-udp", func(o *Options) { o.NoUDP = true }},
		{"--no-icmp", func(o *Options) { o.NoICMP, o.NoNDP = true, true }},
		{"--no-dhcp --no-dhcpv6 --no-ndp --no-ra", func(o *Options) { o.NoDHCP, o.NoDHCPv6, o.NoNDP, o.NoRA = true, true, true, true }},
		{"--no-map-gw", func(o *Options) { o.NoMapGW = true }},
		{"--map-host-loopback 10.0.0.9 --map-host-loopback fd00::9", func(o *Options) { o.MapLoopback4, o.MapLoopback6 = addr("10.0.0.9"), addr("fd00::9") }},
		{"--map-host-loopback none", func(o *Options) { o.NoMapGW = true }},
		{"--map-guest-addr 169.254.1.2 --map-guest-addr fc00::2", func(o *Options) { o.MapGuest4, o.MapGuest6 = addr("169.254.1.2"), addr("fc00::2") }},
		{"--map-guest-addr 169.254.1.2 --map-guest-addr none", func(o *Options) {}},
		{"--host-lo-to-ns-lo", func(o *Options) { o.HostLoToNSLo = true }},
		{"--no-splice", func(o *Options) { o.NoSplice = true }},
		{"--splice-only", func(o *Options) {
			o.SpliceOnly, o.HostLoToNSLo, o.NoICMP, o.NoNDP, o.NoDNS, o.NoSearch = true, true, true, true, true, true
		}},
		{"--chroot-fallback", func(o *Options) {}},
		{"-t 22 --udp-ports=53 -T none --udp-ns auto", func(o *Options) {
			o.Forward = []ForwardOption{{forward.InTCP, "22"}, {forward.InUDP, "53"}, {forward.OutTCP, "none"}, {forward.OutUDP, "auto"}}
		}},
		{"--netns web", func(o *Options) { o.Netns, o.NetnsOnly, o.Foreground, o.Quiet = "/run/netns/web", true, false, false }},
		{"--netns ./web --userns /u", func(o *Options) { o.Netns, o.Userns, o.Foreground, o.Quiet = "./web", "/u", false, false }},
		{"--userns /u --netns-only --netns /n", func(o *Options) {
			o.Netns, o.NetnsOnly, o.Foreground, o.Quiet = "/n", true, false, false
		}},
		{"--netns /n --no-netns-quit", func(o *Options) {
			o.Netns, o.NetnsOnly, o.NoNetnsQuit, o.Foreground, o.Quiet = "/n", true, true, false, false
		}},
		{"sh -c x", func(o *Options) { o.Command = []string{"sh", "-c", "x"} }},
		{"-- sh -f", func(o *Options) { o.Command = []string{"sh", "-f"} }},
		{"--userns /u 12", func(o *Options) { o.PID, o.Userns, o.Foreground, o.Quiet = 12, "/u", false, false }},
		{"12 34", func(o *Options) { o.Command = []string{"12", "34"} }},
		{"--quie", func(o *Options) {}},
	}
	for _, tt := range tests {
		want := &Options{Program: "pasta", MTU: 65520, LogSize: 1 << 20, Foreground: true, Quiet: true}
		tt.want(want)
		got, err := Parse(append([]string{"pasta"}, strings.Fields(tt.args)...))
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if len(got.Command) == 0 {
			got.Command = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", tt.args, got, want)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	tests := []struct{ args, want string }{
		{"--nonsense", "pasta: unrecognized option '--nonsense'"},
		{"--mtu", "pasta: option '--mtu' requires an argument"},
		{"--quiet=1", "pasta: option '--quiet' doesn't allow an argument"},
		{"-Z", "pasta: invalid option -- 'Z'"},
		{"-s /x", "-s is for passt / vhost-user mode only"},
		{"--socket /x", "-s is for passt"},
		{"--socket-path /x", "-s is for passt"},
		{"-F 5", "--fd is for passt mode only"},
		{"-1", "--one-off is for passt mode only"},
		{"--vhost-user", "--vhost-user is for virtual machines"},
		{"--print-capabilities", "vhost-user mode only"},
		{"--repair-path /x", "--repair-path is for vhost-user mode only"},
		{"--migrate-exit", "--migrate-exit is for vhost-user mode only"},
		{"--migrate-no-linger", "--migrate-no-linger is for vhost-user mode only"},
		{"--no-dhcp-dns", "--no-dhcp-dns is for passt mode only"},
		{"--no-dhcp-search", "--no-dhcp-search is for passt mode only"},
		{"--freebind", "--freebind is not available"},
		{"--stats 1", "--stats is not available"},
		{"-m x", "Invalid MTU: x"},
		{"-m 65521", "MTU 65521 too large (max 65520)"},
		{"-a x", "Invalid guest address: x"},
		{"-a 127.0.0.1", "Invalid guest address"},
		{"-a 224.0.0.1", "Invalid guest address"},
		{"-a 0.0.0.0", "Invalid guest address"},
		{"-a 10.0.0.1/33", "Invalid prefix length: 10.0.0.1/33"},
		{"-a 10.0.0.1/x", "Invalid guest address: 10.0.0.1/x"},
		{"-a 10.0.0.1/24 -n 24", "Redundant prefix length specification"},
		{"-n 24 -a 10.0.0.1/24", "Redundant prefix length specification"},
		{"-n 33", "Invalid prefix length: 33"},
		{"-n 255.0.255.0", "Invalid prefix length: 255.0.255.0"},
		{"-n 0", "Invalid prefix length: 0"},
		{"-g ::1", "Invalid gateway address: ::1"},
		{"-g 255.255.255.255", "Invalid gateway address"},
		{"-o ff02::1", "Invalid or redundant outbound address: ff02::1"},
		{"-o ::1", "Invalid or redundant outbound address: ::1"},
		{"-o ::ffff:192.0.2.1", "Invalid or redundant outbound address"},
		{"-D x", "Cannot use DNS address x"},
		{"--dns-forward 127.0.0.1", "Invalid DNS forwarding address: 127.0.0.1"},
		{"--dns-host 0.0.0.0", "Invalid host nameserver address: 0.0.0.0"},
		{"--map-host-loopback ::1", "Invalid address to remap to host: ::1"},
		{"--map-guest-addr x", "Invalid address to remap to host: x"},
		{"-I " + strings.Repeat("x", 16), "Invalid interface name"},
		{"-i a/b", "Invalid interface name: a/b"},
		{"--outbound-if4 ..", "Invalid interface name: .."},
		{"-M 02:00:00:00:00", "Invalid MAC address: 02:00:00:00:00"},
		{"--ns-mac-addr 01:00:00:00:00:00", "Invalid MAC address: 01:00:00:00:00:00"},
		{"-M 0200.0000.0001", "Invalid MAC address"},
		{"--log-size 10", "Invalid --log-size: 10"},
		{"-H " + strings.Repeat("x", 255), "Invalid hostname"},
		{"--fqdn " + strings.Repeat("x", 255), "Invalid FQDN"},
		{"-c " + strings.Repeat("x", 108), "Invalid configuration path"},
		{"--netns /n 5", "Both --netns and PID or command given"},
		{"--netns /n sh", "Both --netns and PID or command given"},
		{"99999999999", "Invalid PID 99999999999"},
		{"0", "Invalid PID 0"},
		{"--no-copy-routes", "--no-copy-routes needs --config-net"},
		{"--no-copy-addrs", "--no-copy-addrs needs --config-net"},
		{"--splice-only --no-splice", "--splice-only is incompatible with --no-splice"},
	}
	for _, tt := range tests {
		o, err := Parse(append([]string{"pasta"}, strings.Fields(tt.args)...))
		if err == nil || o != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// TestRetry: podman calls again without an option when the text says that it is not known.
func TestRetry(t *testing.T) {
	_, err := Parse([]string{"/usr/bin/pasta", "--of-the-future", "x"})
	var u usageError
	if !errors.As(err, &u) || err.Error() != "/usr/bin/pasta: unrecognized option '--of-the-future'" {
		t.Errorf("%T %v", err, err)
	}
}

// TestHelpIsWhole: every long option but those of virtual machines is in the help, as callers look for it there.
func TestHelpIsWhole(t *testing.T) {
	var r request
	if _, err := Parse([]string{"pasta", "--help"}); !errors.As(err, &r) {
		t.Fatal(err)
	}
	hidden := map[string]bool{"stderr": true}
	for _, l := range grammar.Long {
		if _, no := foreign[l.Value]; !no && !hidden[l.Name] && !strings.Contains(r.text, "--"+l.Name) {
			t.Errorf("--%s is not in the help", l.Name)
		}
	}
	if _, err := Parse([]string{"pasta", "--host-lo-to-ns-lo", "--version"}); !errors.As(err, &r) || !strings.HasPrefix(r.text, "pasta 2026_07_23") {
		t.Errorf("%v: %q", err, r.text)
	}
}

// TestGrammarIsServed: what the grammar knows is taken or refused with a reason.
func TestGrammarIsServed(t *testing.T) {
	for _, l := range grammar.Long {
		for _, arg := range []string{"", "x"} {
			r := reader{o: &Options{}}
			if err := r.option(l.Value, arg); err != nil && err.Error() == "" {
				t.Errorf("--%s is not served", l.Name)
			}
		}
	}
}

// FuzzParse: whatever a command line is, it is understood or refused in words.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"--config-net -t 8080-8080:80-80 --netns /n", "-a 10.0.2.100/24 -g 10.0.2.2 12", "-m0 -D none -- sh", "--map-guest-addr none"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := Parse(append([]string{"pasta"}, strings.Fields(line)...))
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q is refused without a reason", line)
			}
			return
		}
		p, err := makePlan(o, Host{}, Resolv{})
		if err != nil {
			return
		}
		_, _, _ = o.Tables(p.Network.Subnet4.IsValid(), p.Network.Subnet6.IsValid(), forward.Ports{First: 32768, Last: 60999})
	})
}

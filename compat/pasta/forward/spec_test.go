package forward

import (
	"strings"
	"testing"
)

const allCaps = CapIPv4 | CapIPv6 | CapTCP | CapUDP | CapScan | CapDevice

// ephemeral is what Linux has when nobody changed it.
var ephemeral = Ports{32768, 60999}

// show is the table as the user sees it.
func show(t *Table) string {
	var lines []string
	for _, r := range t.Rules {
		lines = append(lines, strings.TrimRight(r.String(), " "))
	}
	return strings.Join(lines, "\n")
}

func TestParse(t *testing.T) {
	tests := []struct {
		opt  Option
		spec string
		want string
	}{
		{InTCP, "none", ""},
		{InTCP, "22", "TCP [*]:22  =>  22"},
		{InUDP, "22", "UDP [*]:22  =>  22"},
		{InTCP, "22:23", "TCP [*]:22  =>  23"},
		{InTCP, "22,25", "TCP [*]:22  =>  22\nTCP [*]:25  =>  25"},
		{InTCP, "22-80", "TCP [*]:22-80  =>  22-80"},
		{InTCP, "22-80:32-90", "TCP [*]:22-80  =>  32-90"},
		{InTCP, "8080-8080:80-80", "TCP [*]:8080  =>  80"},
		{InTCP, "192.0.2.1/22", "TCP [192.0.2.1]:22  =>  22"},
		{InTCP, "192.0.2.1%eth0/22", "TCP [192.0.2.1]%eth0:22  =>  22"},
		{InTCP, "%eth0/22", "TCP [*]%eth0:22  =>  22"},
		{InTCP, "*%eth0/22", "TCP [*]%eth0:22  =>  22"},
		{InTCP, "*/22", "TCP [*]:22  =>  22"},
		{InTCP, "/22", "TCP [*]:22  =>  22"},
		{InTCP, "0.0.0.0/22", "TCP [0.0.0.0]:22  =>  22"},
		{InTCP, "::1/8080-8080:80-80", "TCP [::1]:8080  =>  80"},
		{InTCP, "[::1]/8080", "TCP [::1]:8080  =>  8080"},
		{InTCP, "::/22", "TCP [::]:22  =>  22"},
		{InTCP, "::ffff:192.0.2.1/22", "TCP [192.0.2.1]:22  =>  22"},
		{InTCP, "2000-5000,~3000-3010", "TCP [*]:2000-2999  =>  2000-2999\nTCP [*]:3011-5000  =>  3011-5000"},
		{InTCP, "192.0.2.1/20-30,~25", "TCP [192.0.2.1]:20-24  =>  20-24\nTCP [192.0.2.1]:26-30  =>  26-30"},
		{InTCP, "~25,20-30:120-130", "TCP [*]:20-24  =>  120-124\nTCP [*]:26-30  =>  126-130"},
		{InTCP, "5-25,~10-20", "TCP [*]:5-9  =>  5-9\nTCP [*]:21-25  =>  21-25"},
		{InTCP, "5-6,~5-6", ""},
		{InTCP, "~25", "TCP [*]:1-24  =>  1-24  (best effort)\nTCP [*]:26-32767  =>  26-32767  (best effort)\nTCP [*]:61000-65535  =>  61000-65535  (best effort)"},
		{InTCP, "~1-65535", ""},
		{InTCP, "all", "TCP [*]:1-32767  =>  1-32767  (best effort)\nTCP [*]:61000-65535  =>  61000-65535  (best effort)"},
		{InTCP, "::1/all", "TCP [::1]:1-32767  =>  1-32767  (best effort)\nTCP [::1]:61000-65535  =>  61000-65535  (best effort)"},
		{InTCP, "0.0.0.0/all:10.0.0.2", "TCP [0.0.0.0]:1-32767  =>  10.0.0.2:1-32767  (best effort)\nTCP [0.0.0.0]:61000-65535  =>  10.0.0.2:61000-65535  (best effort)"},
		{InTCP, "auto", "TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)\nTCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"},
		{InTCP, "::1/auto", "TCP [::1]:1-32767  =>  1-32767  (best effort) (auto-scan)\nTCP [::1]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"},
		{InTCP, "80-82,auto", "TCP [*]:80-82  =>  80-82  (auto-scan)"},
		{InTCP, "auto,~2-65535", "TCP [*]:1  =>  1  (best effort) (auto-scan)"},
		{InTCP, "0.0.0.0/8080:10.89.0.2/80", "TCP [0.0.0.0]:8080  =>  10.89.0.2:80"},
		{InTCP, "0.0.0.0/8080:10.89.0.2", "TCP [0.0.0.0]:8080  =>  10.89.0.2:8080"},
		{InUDP, "[::]/8080-8081:[fd00::2]/80-81", "UDP [::]:8080-8081  =>  fd00::2:80-81"},
		{InTCP, "[::]/8080:fd00::2/80", "TCP [::]:8080  =>  fd00::2:80"},
		{InTCP, "[::]/8080:[fd00::2]", "TCP [::]:8080  =>  fd00::2:8080"},
		{InTCP, "80:0.0.0.0/81", "TCP [*]:80  =>  81"},
		{InTCP, "65535", "TCP [*]:65535  =>  65535"},
		{OutTCP, "5432", "TCP [*]%lo:5432  =>  5432"},
		{OutUDP, "53:5353", "UDP [*]%lo:53  =>  5353"},
		{OutUDP, "auto,~2-65535", "UDP [*]%lo:1  =>  1  (best effort) (auto-scan)"},
	}
	for _, tt := range tests {
		tab := Table{Caps: allCaps}
		if err := tab.Parse(tt.opt, Add, tt.spec, ephemeral); err != nil {
			t.Errorf("-%c %s: %v", tt.opt, tt.spec, err)
		} else if got := show(&tab); got != tt.want {
			t.Errorf("-%c %s: got\n%s\nwant\n%s", tt.opt, tt.spec, got, tt.want)
		}
		// What was added can be deleted by the same words.
		if err := tab.Parse(tt.opt, Delete, tt.spec, ephemeral); tt.spec != "none" && err != nil || len(tab.Rules) != 0 {
			t.Errorf("-%c %s: delete: %v, left %q", tt.opt, tt.spec, err, show(&tab))
		}
	}
}

func TestParseRefused(t *testing.T) {
	tests := []struct {
		opt        Option
		spec, want string
	}{
		{InTCP, "", "Invalid port specifier ''"},
		{InTCP, "x", "Invalid port specifier 'x'"},
		{InTCP, "22,", "Invalid port specifier '22,'"},
		{InTCP, ",22", "Invalid port specifier ',22'"},
		{InTCP, "22 ", "Invalid port specifier '22 '"},
		{InTCP, "-22", "Invalid port specifier '-22'"},
		{InTCP, "22-", "Invalid port specifier '22-'"},
		{InTCP, "30-20", "Invalid port specifier '30-20'"},
		{InTCP, "65536", "Invalid port specifier '65536'"},
		{InTCP, "99999999999999999999", "Invalid port specifier"},
		{InTCP, "22-24:32-33", "Invalid port specifier '22-24:32-33'"},
		{InTCP, "22:32-33", "Invalid port specifier '22:32-33'"},
		{InTCP, "22:", "Invalid port specifier '22:'"},
		{InTCP, "22:10.0.0.2/", "Invalid port specifier"},
		{InTCP, "22:23:24", "Invalid port specifier"},
		{InTCP, "~", "Invalid port specifier '~'"},
		{InTCP, "none,22", "Invalid port specifier 'none,22'"},
		{InTCP, "all:", "Invalid port specifier 'all:'"},
		{InTCP, "allx", "Invalid port specifier 'allx'"},
		{InTCP, "192.0.2.1/", "Invalid port specifier ''"},
		{InTCP, "192.0.2.1", "Invalid port specifier '192.0.2.1'"},
		{InTCP, "192.0.2/22", "Invalid port specifier '192.0.2/22'"},
		{InTCP, "[192.0.2.1]/22", "Invalid port specifier"},
		{InTCP, "[::1/22", "Invalid port specifier"},
		{InTCP, "192.0.2.1%/22", "Invalid interface name: "},
		{InTCP, "192.0.2.1%eth0", "Invalid port specifier"},
		{InTCP, "%./22", "Invalid interface name: ."},
		{InTCP, "%../22", "Invalid interface name: .."},
		{InTCP, "%a123456789012345/22", "Invalid interface name"},
		{InTCP, "0", "map from port 0"},
		{InTCP, "22:0", "map to port 0"},
		{InTCP, "22,22", "Forwarding configuration conflict"},
		{InTCP, "20-30,25", "Forwarding configuration conflict"},
		{InTCP, "8080:10.0.0.2/80", "Did you mean 0.0.0.0/... instead?"},
		{InTCP, "8080:[fd00::2]/80", "Did you mean [::]/... instead?"},
		{InTCP, "0.0.0.0/8080:fd00::2/80", "Forward from IPv4 (0.0.0.0) to IPv6 (fd00::2) unsupported"},
		{InTCP, "0.0.0.0/8080:224.0.0.1/80", "Multicast target address 224.0.0.1"},
		{OutTCP, "127.0.0.1/22", "Listening address not allowed for -T 127.0.0.1/22"},
		{OutUDP, "%lo/22", "Listening address not allowed for -U %lo/22"},
	}
	for _, tt := range tests {
		tab := Table{Caps: allCaps}
		if err := tab.Parse(InTCP, Add, "1", ephemeral); err != nil {
			t.Fatal(err)
		}
		err := tab.Parse(tt.opt, Add, tt.spec, ephemeral)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("-%c %q: %v, want %q", tt.opt, tt.spec, err, tt.want)
		}
		if len(tab.Rules) != 1 {
			t.Errorf("-%c %q changed the table: %s", tt.opt, tt.spec, show(&tab))
		}
	}
}

// TestParseFurther: options that are given more than once add up.
func TestParseFurther(t *testing.T) {
	tab := Table{Caps: allCaps}
	for _, s := range []string{"none", "22", "127.0.0.1/23", "[::1]/23"} {
		if err := tab.Parse(InTCP, Add, s, ephemeral); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Parse(InUDP, Add, "none", ephemeral); err != nil {
		t.Errorf("none beside ports of the other transport: %v", err)
	}
	for spec, want := range map[string]string{
		"none":         "-t none conflicts with previous options",
		"0.0.0.0/22":   "conflict",
		"0.0.0.0/23":   "conflict",
		"::/20-23":     "conflict",
		"23":           "conflict",
		"127.0.0.2/23": "",
	} {
		c := tab.Clone()
		err := c.Parse(InTCP, Add, spec, ephemeral)
		if got := ""; err != nil && want != "" {
			got = err.Error()
			if !strings.Contains(got, want) {
				t.Errorf("%s: %v", spec, err)
			}
		} else if (err == nil) != (want == "") {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	if err := tab.Parse(InTCP, Delete, "127.0.0.1/20-23", ephemeral); err == nil || !strings.Contains(err.Error(), "doesn't match it, can't delete") {
		t.Errorf("delete of a part: %v", err)
	}
	if err := tab.Parse(InTCP, Delete, "99", ephemeral); err == nil || !strings.Contains(err.Error(), "Couldn't find forwarding rule to delete") {
		t.Errorf("delete of nothing: %v", err)
	}
}

// TestCaps: what one side cannot do is refused, or put in words it can do.
func TestCaps(t *testing.T) {
	tests := []struct {
		without Caps
		opt     Option
		spec    string
		want    string // the table, or the error
	}{
		{CapIPv6, InTCP, "22", "TCP [0.0.0.0]:22  =>  22"},
		{CapIPv4, InTCP, "22", "TCP [::]:22  =>  22"},
		{CapIPv6, InTCP, "::1/22", "IPv6 forward, but IPv6 not enabled"},
		{CapIPv4, InTCP, "127.0.0.1/22", "IPv4 forward, but IPv4 not enabled"},
		{CapIPv4 | CapIPv6, InTCP, "22", "Dual stack forward, but IPv4 not enabled"},
		{CapTCP, InTCP, "22", "Can't add TCP forwarding rule, TCP not enabled"},
		{CapUDP, InUDP, "22", "Can't add UDP forwarding rule, UDP not enabled"},
		{CapScan, InTCP, "auto", "'auto' port forwarding is only allowed for pasta"},
		{CapDevice, InTCP, "%eth0/22", "Device binding for '-t %eth0/22' unsupported"},
		{CapDevice, OutTCP, "22", "TCP [127.0.0.1]:22  =>  22\nTCP [::1]:22  =>  22"},
		{CapDevice | CapIPv6, OutUDP, "22", "UDP [127.0.0.1]:22  =>  22"},
	}
	for _, tt := range tests {
		tab := Table{Caps: allCaps &^ tt.without}
		err := tab.Parse(tt.opt, Add, tt.spec, ephemeral)
		got := show(&tab)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("without %#x -%c %s: %q, want %q", tt.without, tt.opt, tt.spec, got, tt.want)
		}
	}
}

func TestTableFull(t *testing.T) {
	tab := Table{Caps: allCaps}
	for i := range MaxRules {
		if err := tab.Add(rule(uint16(1 + 2*i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Add(rule(9000)); err == nil || !strings.Contains(err.Error(), "Too many rules (maximum 256)") {
		t.Error(err)
	}
}

// FuzzParse: nothing that is accepted breaks what a table promises, and it can be taken back.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"none", "auto", "all:10.0.0.1", "22-80:32-90", "192.0.2.1%eth0/22,~25", "[::]/8080:[fd00::2]/80-81", "~1", "%lo/auto,80-82"} {
		f.Add(byte('t'), s)
		f.Add(byte('U'), s)
	}
	f.Fuzz(func(t *testing.T, o byte, spec string) {
		opt := []Option{InTCP, InUDP, OutTCP, OutUDP}[o%4]
		tab := Table{Caps: allCaps}
		if err := tab.Parse(opt, Add, spec, ephemeral); err != nil {
			if len(tab.Rules) != 0 {
				t.Errorf("%q was refused and changed the table", spec)
			}
			return
		}
		again := Table{Caps: allCaps}
		for _, r := range tab.Rules {
			if err := again.Add(r); err != nil {
				t.Errorf("%q: %v", spec, err)
			}
		}
		if spec == "none" {
			return
		}
		if err := tab.Parse(opt, Delete, spec, ephemeral); err != nil || len(tab.Rules) != 0 {
			t.Errorf("%q cannot be taken back: %v", spec, err)
		}
	})
}

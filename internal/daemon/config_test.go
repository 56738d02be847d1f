package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/cnm/ipam"
)

// Every key of Docker's that does something, with the value where it goes.
func TestConfigKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	text := `{
		"debug": true, "log-level": "warn", "log-format": "json", "hosts": ["unix:///run/x.sock", "fd://"],
		"default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
		"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1450"}},
		"dns": ["8.8.8.8", "2001:db8::1"], "dns-opts": ["ndots:2"], "dns-search": ["example.com"], "resolv-conf": "/run/resolv.conf",
		"bip": "10.9.0.1/24", "bip6": "fd01::1/64", "fixed-cidr": "10.9.0.128/25", "fixed-cidr-v6": "fd01::/80",
		"default-gateway": "10.9.0.9", "default-gateway-v6": "fd01::9", "ipv6": true, "mtu": 1400, "icc": false, "ip-masq": false,
		"ip": "127.0.0.1", "host-gateway-ips": ["192.0.2.1", "2001:db8::2"]
	}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, warnings, err := Source{File: file}.Load()
	if err != nil || len(warnings) != 0 {
		t.Fatal(warnings, err)
	}
	no := false
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := Config{
		Debug: true, LogLevel: "warn", LogFormat: "json", Hosts: []string{"unix:///run/x.sock", "fd://"},
		DefaultAddressPools: []ipam.Block{{Base: prefix("10.10.0.0/16"), Size: 24}},
		DefaultNetworkOpts:  map[string]map[string]string{"bridge": {"com.docker.network.driver.mtu": "1450"}},
		DNS:                 []netip.Addr{addr("8.8.8.8"), addr("2001:db8::1")},
		DNSOpts:             []string{"ndots:2"}, DNSSearch: []string{"example.com"}, ResolvConf: "/run/resolv.conf",
		BIP: prefix("10.9.0.1/24"), BIP6: prefix("fd01::1/64"), FixedCIDR: prefix("10.9.0.128/25"), FixedCIDR6: prefix("fd01::/80"),
		DefaultGateway4: addr("10.9.0.9"), DefaultGateway6: addr("fd01::9"), IPv6: true, MTU: 1400, ICC: &no, Masquerade: &no,
		IP: addr("127.0.0.1"), HostGateway: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::2")},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error("(-want +got)\n", d)
	}
	if got.hostGateway()() != addr("192.0.2.1") || got.dns().Servers[1] != netip.MustParseAddrPort("[2001:db8::1]:53") {
		t.Error(got.hostGateway()(), got.dns())
	}
}

// LG2 and §2.18: what is refused, in Docker's words, and what is accepted with a warning.
func TestConfigRefused(t *testing.T) {
	for _, row := range []struct {
		text, want string
		set        []string
		flags      Config
	}{
		{text: `{"colour":"red","a":1}`, want: "the following directives don't match any configuration option: a, colour"},
		{text: `{"cluster-store":"etcd://"}`, want: "the following directives don't match any configuration option: cluster-store"},
		{text: `{"debug":true}`, set: []string{"debug"}, want: "the following directives are specified both as a flag and in the configuration file: debug: (from flag: false, from file: true)"},
		{text: `{"dns":["1.1.1.1"],"icc":true}`, set: []string{"icc", "dns"}, flags: Config{DNS: []netip.Addr{netip.MustParseAddr("8.8.8.8")}, ICC: new(bool)},
			want: "the following directives are specified both as a flag and in the configuration file: dns: (from flag: [8.8.8.8], from file: [1.1.1.1]), icc: (from flag: false, from file: true)"},
		{text: `{"log-level":"loud"}`, want: "invalid logging level: loud"},
		{text: `{}`, set: []string{"log-level"}, flags: Config{LogLevel: "x"}, want: "invalid logging level: x"},
		{text: `{"log-format":"xml"}`, want: "invalid log format: xml"},
		{text: `{"mtu":-1}`, want: "invalid default MTU: -1"},
		{text: `{"mtu":"1500"}`, want: "mtu: json: cannot unmarshal string into Go value of type int"},
		{text: `{"default-gateway":"172.17.0.9"}`, want: "invalid default-gateway 172.17.0.9: say what subnet it is in with bip or fixed-cidr"},
		{text: `{"bip":"10.9.0.1/24","default-gateway-v6":"fd00::9"}`, want: "invalid default-gateway-v6 fd00::9: say what subnet it is in with bip6 or fixed-cidr-v6"},
		{text: `{"dns":["nameserver"]}`, want: `dns: ParseAddr("nameserver"): unable to parse IP`},
		{text: `{"default-address-pools":[{"base":"10.0.0.0/16","size":8}]}`, want: "invalid default-address-pools: "},
		{text: `{"hosts":["tcp://0.0.0.0:2375"]}`, want: `invalid hosts entry "tcp://0.0.0.0:2375": `},
		{text: `{"hosts":["unix://x.sock"]}`, want: `invalid hosts entry "unix://x.sock": use an absolute path`},
		{text: `{"host-gateway-ip":"1.1.1.1","host-gateway-ips":["1.1.1.1"]}`, want: "host-gateway-ip and host-gateway-ips"},
		{text: `{`, want: "unexpected EOF"},
		{text: `{} {}`, want: "there is something behind"},
		{text: `[]`, want: "json: cannot unmarshal array"},
		{text: strings.Repeat(" ", MaxConfig+1), want: "it is longer than"},
	} {
		file := filepath.Join(t.TempDir(), "daemon.json")
		if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := Source{File: file, Flags: row.flags, Set: row.set}.Load()
		want := "unable to configure the daemon with file " + file + ": " + row.want
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60s: %v\nwant %s", row.text, err, want)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(meaningless)) {
		_, keys, warnings, err := ParseConfig([]byte(`{"` + key + `":null}`))
		if err != nil || len(keys) != 0 || len(warnings) != 1 || !strings.HasPrefix(warnings[0], `"`+key+`" has no effect: `) {
			t.Errorf("%s: %v, %v", key, warnings, err)
		}
	}
}

// A file that is not there is no error unless it was named; flags alone do.
func TestConfigSources(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.json")
	c, _, err := Source{File: none, Flags: Config{MTU: 1400, LogLevel: "fatal"}, Set: []string{"mtu", "log-level"}}.Load()
	if err != nil || c.MTU != 1400 || c.Level() <= slog.LevelError {
		t.Errorf("%+v, %v", c, err)
	}
	if _, _, err := (Source{File: none, Explicit: true}).Load(); err == nil || !strings.HasSuffix(err.Error(), "no such file or directory") {
		t.Error(err)
	}
	// Nobody is sent to a file that is not there.
	_, _, err = Source{File: none, Flags: Config{LogLevel: "loud"}, Set: []string{"log-level"}}.Load()
	if want := "unable to configure the daemon: invalid logging level: loud"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	c, _, _, err = ParseConfig([]byte(`{"host-gateway-ip":"192.0.2.1","ip":"","bip":""}`))
	if err != nil || fmt.Sprint(c.HostGateway) != "[192.0.2.1]" || c.IP.IsValid() || c.BIP.IsValid() {
		t.Errorf("%+v, %v", c, err)
	}
}

// LG2: the levels, with info where nothing is said; debug wins.
func TestLG2Levels(t *testing.T) {
	for text, want := range map[string]slog.Level{
		`{}`: slog.LevelInfo, `{"log-level":"debug"}`: slog.LevelDebug, `{"log-level":"info"}`: slog.LevelInfo,
		`{"log-level":"warn"}`: slog.LevelWarn, `{"log-level":"error"}`: slog.LevelError, `{"log-level":"fatal"}`: slog.LevelError + 4,
		`{"debug":true,"log-level":"error"}`: slog.LevelDebug,
	} {
		if c, _, _, err := ParseConfig([]byte(text)); err != nil || c.Validate() != nil || c.Level() != want {
			t.Errorf("%s: %v, %v", text, c.Level(), err)
		}
	}
}

// LG1: in the journal each line has its priority, elsewhere none.
func TestLG1Journal(t *testing.T) {
	var b strings.Builder
	log := newLogger(&b, slog.LevelDebug, false, true).With("role", "daemon").WithGroup("g")
	log.Debug("d")
	log.Info("i")
	log.Warn("w")
	log.Error("e", "k", 1)
	want := "<7>msg=d role=daemon\n<6>msg=i role=daemon\n<4>msg=w role=daemon\n<3>msg=e role=daemon g.k=1\n"
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if isJournal(f, "1:2") || isJournal(f, "") || !isJournal(f, stream(fi)) {
		t.Error("the journal is not recognized by device and inode")
	}
}

// The log of a daemon that was started on demand does not grow for ever, and its other writers go on.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.log")
	f, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &logFile{path: path, max: 100, f: f}
	for i := range 50 {
		fmt.Fprintf(l, "line %d\n", i)
		if i == 40 {
			fmt.Fprintln(f, "of the datapath")
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 120 || !strings.HasSuffix(string(b), "line 49\n") || strings.Contains(string(b), "\x00") {
		t.Errorf("%q, %v", b, err)
	}
	old, err := os.ReadFile(path + ".old")
	if err != nil || len(old) > 120 || !strings.Contains(string(old)+string(b), "of the datapath") {
		t.Errorf("%q, %v", old, err)
	}
	if w := logOutput(f, path); w == f {
		t.Error("its own log file is not recognized")
	}
	if w := logOutput(os.Stderr, path); w != os.Stderr {
		t.Error("standard error is taken for the log file")
	}
}

// FZ: no file makes the daemon panic, and what is accepted can be written and read again.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"debug":true,"dns":["8.8.8.8"],"host-gateway-ip":"1.2.3.4"}`))
	f.Add([]byte(`{"default-address-pools":[{"base":"10.0.0.0/8","size":24}],"iptables":false}`))
	f.Add([]byte(`{"mtu":1e3,"default-network-opts":{"bridge":{"a":"b"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, keys, _, err := ParseConfig(b)
		if err != nil || c.Validate() != nil {
			return
		}
		again := make(map[string]any)
		for _, f := range c.fields() {
			if slices.Contains(keys, f.key) {
				again[f.key] = f.to
			}
		}
		text, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		d, _, _, err := ParseConfig(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		text2, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if one, err := json.Marshal(c); err != nil || string(one) != string(text2) {
			t.Errorf("%s\n%s", one, text2)
		}
	})
}

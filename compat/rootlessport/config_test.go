package rootlessport

import (
	"fmt"
	"strings"
	"testing"
)

const wholeConfig = `{"Mappings":[
	{"host_ip":"","container_port":80,"host_port":8080,"range":1,"protocol":"tcp"},
	{"host_ip":"127.0.0.1","container_port":90,"host_port":9000,"range":3,"protocol":"tcp,udp"},
	{"host_ip":"::1","container_port":53,"host_port":5300,"range":0,"protocol":"udp"}],
	"NetNSPath":"/run/user/1000/netns/netns-1","ExitFD":3,"ReadyFD":4,"TmpDir":"/run/user/1000/libpod/tmp",
	"ChildIP":"10.89.0.2","ContainerID":"0123abc","RootlessCNI":true}`

func TestConfig(t *testing.T) {
	c, err := readConfig(strings.NewReader(wholeConfig))
	if err != nil {
		t.Fatal(err)
	}
	if c.NetNSPath != "/run/user/1000/netns/netns-1" || c.ExitFD != 3 || c.ReadyFD != 4 || c.ContainerID != "0123abc" || !c.RootlessCNI {
		t.Errorf("read %+v", c)
	}
	specs, err := c.specs()
	if err != nil {
		t.Fatal(err)
	}
	want := "[8080:80/tcp 127.0.0.1:9000:90/tcp 127.0.0.1:9001:91/tcp 127.0.0.1:9002:92/tcp " +
		"127.0.0.1:9000:90/udp 127.0.0.1:9001:91/udp 127.0.0.1:9002:92/udp [::1]:5300:53/udp]"
	if got := fmt.Sprint(specs); got != want {
		t.Errorf("ports %s\nwant  %s", got, want)
	}
	if got, want := fmt.Sprint(portRanges(specs)), "[{6 80 80} {6 90 92} {17 53 53} {17 90 92}]"; got != want {
		t.Errorf("ranges %s, want %s", got, want)
	}
}

// What cannot be is refused in the original's words.
func TestConfigRefused(t *testing.T) {
	for edit, want := range map[string]string{
		`"NetNSPath":"/run/user/1000/netns/netns-1"|"NetNSPath":""`: "missing NetNSPath",
		`"ExitFD":3|"ExitFD":0`:                     "missing ExitFD",
		`"ReadyFD":4|"ReadyFD":-1`:                  "missing ReadyFD",
		`"ContainerID":"0123abc"|"ContainerID":""`:  "missing ContainerID",
		`"0123abc"|"../../x"`:                       "invalid ContainerID",
		`"0123abc"|".."`:                            "invalid ContainerID",
		`"ExitFD":3|"ExitFD":"3"`:                   "cannot unmarshal",
		`"protocol":"tcp"|"protocol":"sctp"`:        `unknown proto: "sctp"`,
		`"protocol":"tcp,udp"|"protocol":"tcp,,"`:   "",
		`"host_ip":"127.0.0.1"|"host_ip":"nowhere"`: `invalid ParentIP: "nowhere"`,
		`"host_port":9000|"host_port":0`:            "invalid ParentPort: 0",
		`"host_port":9000|"host_port":65534`:        "invalid ParentPort: 65534",
		`"container_port":80|"container_port":0`:    "invalid ChildPort: 0",
		`"range":3|"range":65535`:                   "invalid ParentPort: 9000",
		`"range":3|"range":70000`:                   "cannot unmarshal",
	} {
		old, changed, _ := strings.Cut(edit, "|")
		text := strings.Replace(wholeConfig, old, changed, 1)
		if text == wholeConfig {
			t.Fatalf("%s: nothing to change", edit)
		}
		c, err := readConfig(strings.NewReader(text))
		if err == nil {
			_, err = c.specs()
		}
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", edit, err, want)
		}
	}
}

func TestChildIP(t *testing.T) {
	for s, want := range map[string]string{
		"": "127.0.0.1", "10.89.0.2": "10.89.0.2", "::ffff:10.89.0.2": "10.89.0.2", "fd00::2": "fd00::2",
		"0.0.0.0": "", "224.0.0.1": "", "fe80::1%eth0": "", "x": "", "10.89.0.2/24": "",
	} {
		a, err := childIP(s)
		if (err != nil) != (want == "") || err == nil && a.String() != want {
			t.Errorf("%q: %v, %v, want %q", s, a, err, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(wholeConfig))
	f.Add([]byte(`{"Mappings":[{"protocol":",,,,"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readConfig(strings.NewReader(string(b)))
		if err != nil {
			return
		}
		specs, err := c.specs()
		if err != nil {
			return
		}
		for _, s := range specs {
			if s.Port == 0 || s.HostPort == 0 || s.HostPortEnd != 0 {
				t.Errorf("%s of %q", s, b)
			}
		}
		ports := 0
		for _, r := range portRanges(specs) {
			if r.first > r.last {
				t.Errorf("range %+v", r)
			}
			ports += int(r.last) - int(r.first) + 1
		}
		if ports > len(specs) {
			t.Errorf("%d ports have rules, %d are published", ports, len(specs))
		}
	})
}

func FuzzReload(f *testing.F) {
	f.Add(`"10.89.0.3"`)
	f.Add(`"`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := readReload(strings.NewReader(s))
		if err == nil && (!a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
			t.Errorf("%q is %v", s, a)
		}
	})
}

package portfwd

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var cmpAddr = cmpopts.EquateComparable(netip.Addr{})

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestParse(t *testing.T) {
	lo := addr("127.0.0.1")
	rows := []struct {
		in   string
		want []Spec
	}{
		{"80", []Spec{{Proto: TCP, Port: 80}}},
		{":80", []Spec{{Proto: TCP, Port: 80}}},
		{"::80", []Spec{{Proto: TCP, Port: 80}}},
		{"0:80", []Spec{{Proto: TCP, Port: 80}}},
		{"80/", []Spec{{Proto: TCP, Port: 80}}},
		{"5000:80", []Spec{{Proto: TCP, HostPort: 5000, Port: 80}}},
		{"53:53/udp", []Spec{{Proto: UDP, HostPort: 53, Port: 53}}},
		{"53:53/UDP", []Spec{{Proto: UDP, HostPort: 53, Port: 53}}},
		{"127.0.0.1:5000:80", []Spec{{Proto: TCP, HostIP: lo, HostPort: 5000, Port: 80}}},
		{"127.0.0.1::80", []Spec{{Proto: TCP, HostIP: lo, Port: 80}}},
		{"0.0.0.0:5000:80", []Spec{{Proto: TCP, HostIP: addr("0.0.0.0"), HostPort: 5000, Port: 80}}},
		{"[::1]:5000:80", []Spec{{Proto: TCP, HostIP: addr("::1"), HostPort: 5000, Port: 80}}},
		{"[::1]::80", []Spec{{Proto: TCP, HostIP: addr("::1"), Port: 80}}},
		{"::1:5000:80", []Spec{{Proto: TCP, HostIP: addr("::1"), HostPort: 5000, Port: 80}}},
		{"[::ffff:127.0.0.1]:5000:80", []Spec{{Proto: TCP, HostIP: lo, HostPort: 5000, Port: 80}}},
		{"80-81", []Spec{{Proto: TCP, Port: 80}, {Proto: TCP, Port: 81}}},
		{"8000-8001:80-81", []Spec{{Proto: TCP, HostPort: 8000, Port: 80}, {Proto: TCP, HostPort: 8001, Port: 81}}},
		{"8000-9000:80", []Spec{{Proto: TCP, HostPort: 8000, HostPortEnd: 9000, Port: 80}}},
		{"1-65535:80", []Spec{{Proto: TCP, HostPort: 1, HostPortEnd: 65535, Port: 80}}},
		{"8000-8000:80", []Spec{{Proto: TCP, HostPort: 8000, Port: 80}}},
		{"published=5000,target=80,protocol=tcp,mode=host", []Spec{{Proto: TCP, HostPort: 5000, Port: 80}}},
		{"target=53,protocol=udp", []Spec{{Proto: UDP, Port: 53}}},
		{"target=80,published=5000,host_ip=::1", []Spec{{Proto: TCP, HostIP: addr("::1"), HostPort: 5000, Port: 80}}},
	}
	for _, r := range rows {
		got, err := Parse(r.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", r.in, err)
			continue
		}
		if d := cmp.Diff(r.want, got, cmpAddr); d != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", r.in, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	rows := []struct{ in, want string }{
		{"", "no port specified: <empty>"},
		{"5000:", "no port specified: 5000:<empty>"},
		{"5000:/tcp", "no port specified"},
		{"[::1]:80", "write [::1]::PORT for a free host port"},
		{"127.0.0.1:80", "invalid hostPort: 127.0.0.1; write 127.0.0.1::80"},
		{"localhost:5000:80", "invalid IP address: localhost"},
		{"127.0.0.256:1:2", "invalid IP address: 127.0.0.256"},
		{"[127.0.0.1]:1:2", "invalid IP address: [127.0.0.1]"},
		{"[::1:1:2", "invalid IP address"},
		{"[]:1:2", "invalid IP address: []"},
		{"224.0.0.1:1:2", "invalid IP address: 224.0.0.1"},
		{"255.255.255.255:1:2", "invalid IP address: 255.255.255.255"},
		{"[fe80::1%eth0]:1:2", "without a zone"},
		{"5000:0", "invalid containerPort: 0"},
		{"5000:65536", "invalid containerPort: 65536"},
		{"5000:-1", "invalid containerPort: -1"},
		{"5000:+80", "invalid containerPort: +80"},
		{"5000:81-80", "invalid containerPort: 81-80"},
		{"5000:80-", "invalid containerPort: 80-"},
		{"x:80", "invalid hostPort: x"},
		{"0-1:80", "invalid hostPort: 0-1"},
		{"65536:80", "invalid hostPort: 65536"},
		{"8000-8002:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000-8002"},
		{"8000:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8000"},
		{"0:80-81", "invalid ranges specified for container and host Ports: 80-81 and 0"},
		{"1-65535", "publish at most 16384"},
		{"80/icmp", "invalid proto: icmp"},
		{"80/tcp/udp", "invalid proto: tcp/udp"},
		{"80/sctp", "sctp is not supported"},
		{"target=80,protocol=sctp", "sctp is not supported"},
		{"target=80,protocol=dccp", "invalid protocol value 'dccp'"},
		{"target=80,mode=global", "invalid publish mode value (global): must be either 'ingress' or 'host'"},
		{"target=80,mode=ingress", "use mode=host"},
		{"published=5000", "missing mandatory field 'target'"},
		{"target=x", "invalid target port (x): value must be an integer"},
		{"target=0", "invalid target port (0)"},
		{"target=80,published=1-2", "invalid published port (1-2): value must be an integer"},
		{"target=80,colour=red", "invalid field key: colour"},
		{"target=80,udp", "invalid field: udp"},
		{"target=80,target=81", "field 'target' is given twice"},
		{"target=80,host_ip=here", "invalid IP address: here"},
	}
	for _, r := range rows {
		got, err := Parse(r.in)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", r.in, got)
			continue
		}
		if !strings.Contains(err.Error(), r.want) || got != nil {
			t.Errorf("Parse(%q) = %v, %v; want %q", r.in, got, err, r.want)
		}
	}
}

// FuzzParse compares Parse with its slow twin (FZ-11): same verdict, same bind list; and what was
// read is written and read back unchanged.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"80", ":80", "5000:80", "127.0.0.1:5000:80/udp", "[::1]:5000:80", "[::1]::80-90", "::1:1:2", "8000-8010:8000-8010", "8000-9000:80/tcp",
		"published=5000,target=80,protocol=tcp,mode=host", "target=80,host_ip=[::1]", "target=80,host_ip=[", "0:80-81", "[::ffff:1.2.3.4]:1-2:3-4/UDP", "80/sctp", "a=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in)
		want, ok := parseSlow(in)
		if ok != (err == nil) {
			t.Fatalf("Parse(%q) = %v, %v; the slow twin says ok=%v %v", in, got, err, ok, want)
		}
		if !slices.Equal(want, got) {
			t.Fatalf("Parse(%q) = %v; the slow twin says %v", in, got, want)
		}
		for _, s := range got {
			if err := s.validate(); err != nil {
				t.Fatalf("Parse(%q) made an invalid Spec: %v", in, err)
			}
			back, err := Parse(s.String())
			if err != nil || len(back) != 1 || back[0] != s {
				t.Fatalf("Parse(%q): %v is written as %q and read back as %v, %v", in, s, s.String(), back, err)
			}
			if len(got) > 64 {
				break // one of a long range speaks for the rest
			}
		}
	})
}

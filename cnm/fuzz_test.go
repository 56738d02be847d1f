package cnm

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/store"
)

// FuzzRecords is FZ-12 for what the store's file has in it: records of any content cost themselves and nothing else.
func FuzzRecords(f *testing.F) {
	yes := true
	conf := NetworkConfig{Name: "n1", Driver: "bridge", EnableIPv4: &yes, EnableIPv6: &yes, IPAM: IPAMConfig{Driver: "default"}}
	for _, r := range []networkRecord{
		{Config: conf, Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")}}},
		{Config: NetworkConfig{Name: "bridge", ConfigOnly: true, EnableIPv4: &yes, EnableIPv6: &yes}},
		{Config: NetworkConfig{Name: "host", Driver: "null", EnableIPv4: &yes, EnableIPv6: &yes}},
	} {
		raw, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, []byte(`{"network":"`+idOf("n")+`","name":"c1","link":{"addr4":"10.1.0.2/24","mac":"02:00:00:00:00:01"}}`))
	}
	f.Fuzz(func(t *testing.T, network, lease []byte) {
		if !json.Valid(network) || !json.Valid(lease) {
			return
		}
		r := newRig(t, func(c *Config) { c.Alive = func(string) bool { return true } })
		r.create("good", "10.200.0.0/24")
		for bucket, raw := range map[string][]byte{store.Networks: network, store.Endpoints: lease} {
			if err := r.store.Put(bucket, idOf("n"), json.RawMessage(raw)); err != nil {
				t.Fatal(err)
			}
		}
		r.restart()
		if _, err := r.c.Network("good"); err != nil && !strings.Contains(string(network), "good") && !strings.Contains(string(network), "10.") {
			t.Error(err)
		}
		for _, name := range []string{"bridge", "host", "none"} {
			if _, err := r.c.Network(name); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzLinks: what --link takes stays one word in files and variables.
func FuzzLinks(f *testing.F) {
	for _, s := range []string{"db", "db:x", "/db:/x", "a:b:c", ":", "db:\n127.0.0.1 x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ls, err := parseLinks([]string{s})
		if err != nil {
			return
		}
		if len(ls) != 1 || ls[0].name == "" || !isWord(ls[0].alias) {
			t.Errorf("parseLinks(%q) = %+v", s, ls)
		}
	})
}

// TestSandboxRefused: what could break out of a line of a file does not get there.
func TestSandboxRefused(t *testing.T) {
	r := newRig(t)
	for text, change := range map[string]func(*SandboxConfig){
		`invalid container id "x": want 64 hexadecimal digits`:                                  func(s *SandboxConfig) { s.ID = "x" },
		"Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed":              func(s *SandboxConfig) { s.Name = "a b" },
		"invalid hostname format: a\nb":                                                         func(s *SandboxConfig) { s.Hostname = "a\nb" },
		"invalid hostname format: a b":                                                          func(s *SandboxConfig) { s.Domainname = "a b" },
		`invalid DNS search domain "a\nnameserver 1.1.1.1": want one word of at most 253 bytes`: func(s *SandboxConfig) { s.DNSSearch = []string{"a\nnameserver 1.1.1.1"} },
		`invalid DNS option "": want one word of at most 253 bytes`:                             func(s *SandboxConfig) { s.DNSOptions = []string{""} },
		`invalid host name "a b": want one word of at most 253 bytes`:                           func(s *SandboxConfig) { s.ExtraHosts = []Host{{Name: "a b"}} },
	} {
		s := sandboxConf("c1")
		change(&s)
		_, err := r.tryRun(s)
		if err == nil || err.Error() != text {
			t.Errorf("got  %v\nwant %s", err, text)
		}
	}
	r.check()
}

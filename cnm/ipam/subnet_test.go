package ipam

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
)

func ip(s string) netip.Addr { a, _ := netip.ParseAddr(s); return a }

func pfx(s string) netip.Prefix { p, _ := netip.ParsePrefix(s); return p }

// C-cr2, C-cr4, C-cr6: gateway and auxiliary addresses of a subnet; a failure gives the pool back.
func TestSubnet(t *testing.T) {
	for _, row := range []struct {
		name    string
		request SubnetRequest
		gateway string
		next    string // what the first container gets
		err     string
		kind    fault.Kind
	}{
		{name: "any", gateway: "172.17.0.1", next: "172.17.0.2"},
		{name: "S4's example", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("172.28.0.0/16"), Range: pfx("172.28.5.0/24")},
			Gateway: ip("172.28.5.254"), Aux: map[string]netip.Addr{"host1": ip("172.28.1.5"), "host2": ip("172.28.5.0"), "host3": ip("172.28.5.1")}},
			gateway: "172.28.5.254", next: "172.28.5.2"},
		{name: "range without gateway", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("172.28.0.0/16"), Range: pfx("172.28.5.0/24")}},
			gateway: "172.28.5.0", next: "172.28.5.1"},
		{name: "no gateway", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")}, NoGateway: true}, next: "10.0.0.1"},
		{name: "no gateway but one is named", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")}, NoGateway: true,
			Gateway: ip("10.0.0.9")}, gateway: "10.0.0.9", next: "10.0.0.1"},
		{name: "v6", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("2001:3984:3989::/64")}},
			gateway: "2001:3984:3989::1", next: "2001:3984:3989::2"},
		{name: "/32", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.1/32")}}, gateway: "10.0.0.1"},

		{name: "network address", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")}, Gateway: ip("10.0.0.0")},
			err: "failed to allocate gateway (10.0.0.0): Address already in use", kind: fault.Forbidden},
		{name: "gateway elsewhere", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")}, Gateway: ip("10.0.1.1")},
			err: "failed to allocate gateway (10.0.1.1): requested address is out of range", kind: fault.Invalid},
		{name: "no room for a gateway", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("fd00::1/128")}},
			err: "failed to allocate gateway (): no available addresses on this pool", kind: fault.Unavailable},
		{name: "aux is the gateway", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")},
			Aux: map[string]netip.Addr{"host1": ip("10.0.0.1")}},
			err: "failed to allocate secondary ip address (host1:10.0.0.1): Address already in use", kind: fault.Forbidden},
		{name: "aux elsewhere", request: SubnetRequest{PoolRequest: PoolRequest{Prefix: pfx("10.0.0.0/24")},
			Aux: map[string]netip.Addr{"host1": ip("10.0.1.1")}},
			err: "auxiliary address: (host1:10.0.1.1) must belong to the master pool: 10.0.0.0/24", kind: fault.Forbidden},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAllocator(t, Config{})
			s, err := RequestSubnet(a, row.request)
			if row.err != "" {
				if err == nil || err.Error() != row.err || fault.KindOf(err) != row.kind {
					t.Errorf("error %v (kind %d), want %s", err, fault.KindOf(err), row.err)
				}
				if len(a.pools) > 0 {
					t.Errorf("pool kept: %v", a.taken)
				}
				return
			}
			if err != nil || s.Gateway != ip(row.gateway) {
				t.Errorf("gateway %v %v, want %s", s.Gateway, err, row.gateway)
			}
			if got, err := a.RequestAddress(s.ID, netip.Addr{}); got.Addr() != ip(row.next) {
				t.Errorf("first address %v %v, want %s", got, err, row.next)
			}
		})
	}
}

// C-cr7: --ipam-driver null.
func TestNull(t *testing.T) {
	d := Null{}
	for text, r := range map[string]PoolRequest{
		"null ipam driver does not handle specific address pool requests":    {Prefix: pfx("10.0.0.0/8")},
		"null ipam driver does not handle specific address subpool requests": {Range: pfx("10.0.0.0/8")},
		"null ipam driver does not handle IPv6 address pool requests":        {V6: true},
	} {
		if _, err := d.RequestPool(r); err == nil || err.Error() != text || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v, want %s", err, text)
		}
	}
	for range 2 { // host and none share it
		s, err := RequestSubnet(d, SubnetRequest{})
		if err != nil || s.Prefix != pfx("0.0.0.0/0") || s.Gateway.IsValid() {
			t.Fatalf("%v %v", s, err)
		}
		a, err := d.RequestAddress(s.ID, netip.Addr{})
		if err != nil || a.IsValid() {
			t.Errorf("address %v %v", a, err)
		}
		u, err := d.Usage(s.ID)
		if err != nil || u != (Usage{}) || d.ReleaseAddress(s.ID, netip.Addr{}) != nil || d.ReleasePool(s.ID) != nil {
			t.Errorf("usage %v %v", u, err)
		}
	}
	_, err := d.RequestAddress("x", netip.Addr{})
	if err == nil || err.Error() != "unknown pool id: x" {
		t.Error(err)
	}
}

// C-cr2, C-cr4, C-cr6, C-cr12: all that is wrong, in Docker's words and one error.
func TestValidate(t *testing.T) {
	for _, row := range []struct {
		name   string
		in     []Settings
		no4    bool
		ipv6   bool
		errors string
	}{
		{name: "nothing"},
		{name: "empty", in: []Settings{{}}},
		{name: "good", ipv6: true, in: []Settings{
			{Prefix: pfx("172.28.0.0/16"), Range: pfx("172.28.5.0/24"), Gateway: ip("172.28.5.254"), Aux: map[string]netip.Addr{"a": ip("172.28.1.5")}},
			{Prefix: pfx("fd00::/64"), Gateway: ip("fd00::1")},
		}},
		{name: "any of a size", ipv6: true, in: []Settings{{Prefix: pfx("0.0.0.0/24")}, {Prefix: pfx("::/56")}}},
		{name: "host bits", in: []Settings{{Prefix: pfx("10.0.0.1/8")}}, errors: "invalid subnet 10.0.0.1/8: it should be 10.0.0.0/8"},
		{name: "v6 is off", in: []Settings{{Prefix: pfx("fd00::1/64")}}},
		{name: "v4 is off", no4: true, in: []Settings{{Prefix: pfx("10.0.0.1/8")}}},
		{name: "range", in: []Settings{{Prefix: pfx("10.0.0.0/16"), Range: pfx("10.0.1.1/24")}, {Prefix: pfx("10.0.0.0/16"), Range: pfx("10.0.0.0/8")},
			{Prefix: pfx("10.0.0.0/16"), Range: pfx("10.1.0.0/24")}, {Prefix: pfx("10.0.0.0/16"), Range: pfx("fd00::/64")}},
			errors: "invalid ip-range 10.0.1.1/24: it should be 10.0.1.0/24\n" +
				"invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.0.0.0/16\n" +
				"invalid ip-range 10.1.0.0/24: parent subnet 10.0.0.0/16 doesn't contain ip-range\n" +
				"invalid ip-range fd00::/64: parent subnet is an IPv4 block"},
		{name: "addresses", ipv6: true, in: []Settings{
			{Prefix: pfx("10.0.0.0/16"), Gateway: ip("10.1.0.1"), Aux: map[string]netip.Addr{"y": ip("10.1.0.2"), "x": ip("fd00::1")}},
			{Prefix: pfx("fd00::/64"), Gateway: ip("10.0.0.1"), Aux: map[string]netip.Addr{"z": {}}}},
			errors: "invalid gateway 10.1.0.1: parent subnet 10.0.0.0/16 doesn't contain this address\n" +
				"invalid auxiliary address x: parent subnet is an IPv4 block\n" +
				"invalid auxiliary address y: parent subnet 10.0.0.0/16 doesn't contain this address\n" +
				"invalid gateway 10.0.0.1: parent subnet is an IPv6 block\n" +
				"invalid auxiliary address z: invalid address"},
		{name: "a gateway without a subnet", in: []Settings{{Gateway: ip("10.0.0.1")}}, errors: "invalid subnet : invalid CIDR block notation"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := Validate(row.in, !row.no4, row.ipv6)
			switch {
			case row.errors == "" && err != nil:
				t.Error(err)
			case row.errors != "" && (err == nil || err.Error() != "invalid network config:\n"+row.errors || fault.KindOf(err) != fault.Invalid):
				t.Errorf("error\n%v\nwant\n%s", err, row.errors)
			}
		})
	}
}

func TestParseBlock(t *testing.T) {
	for in, want := range map[string]string{
		"base=10.10.0.0/16,size=24":         "",
		"size=64,BASE=fd00::/48":            "",
		"base=10.10.0.0/16":                 "invalid default address pool 10.10.0.0/16: size 0 is not between 16 and 32",
		"size=24":                           "invalid default address pool: base is missing; give it as base=10.10.0.0/16,size=24",
		"base=10.10.0.1/16,size=24":         "invalid default address pool 10.10.0.1/16: it should be 10.10.0.0/16",
		"base=10.10.0.0/16,size=33":         "invalid default address pool 10.10.0.0/16: size 33 is not between 16 and 32",
		"base=10.10.0.0/16,size=8":          "invalid default address pool 10.10.0.0/16: size 8 is not between 16 and 32",
		"base=x,size=8":                     `invalid base prefix "x": netip.ParsePrefix("x"): no '/'`,
		"base=10.0.0.0/8,size=x":            `invalid size value: "x" (must be integer): strconv.Atoi: parsing "x": invalid syntax`,
		"foo=1":                             "unexpected key 'foo' in 'foo=1'",
		"":                                  "invalid field '' must be a key=value pair",
		"base=::ffff:10.0.0.0/104,size=120": "invalid default address pool ::ffff:10.0.0.0/104: write it as IPv4",
	} {
		_, err := ParseBlock(in)
		if got := ""; err != nil || want != "" {
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%q: %s, want %s", in, got, want)
			}
		}
	}
	if _, err := New(Config{Blocks: []Block{{}}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an empty block: %v", err)
	}
}

func FuzzParseBlock(f *testing.F) {
	f.Add("base=10.10.0.0/16,size=24")
	f.Add("base=fd00::/48,size=64")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBlock(s)
		if err != nil {
			return
		}
		a, err := New(Config{Blocks: []Block{b}})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := a.RequestPool(PoolRequest{V6: b.Base.Addr().Is6()}); err != nil || p.Prefix.Bits() != b.Size || !within(p.Prefix, b.Base) {
			t.Errorf("%q: %v %v", s, p, err)
		}
	})
}

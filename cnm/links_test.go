package cnm

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

func tcp(ports ...uint16) (specs []portfwd.Spec) {
	for _, p := range ports {
		specs = append(specs, portfwd.Spec{Proto: portfwd.TCP, Port: p})
	}
	return specs
}

// TestLinkVariables is LK2 to LK4 in the order of 2.10.
func TestLinkVariables(t *testing.T) {
	child := &SandboxConfig{
		Name: "db", Env: []string{"doc=docker", "HOME=/root", "PATH=/bin", "broken"},
		Expose: append(tcp(27019, 27017, 27018), portfwd.Spec{Proto: portfwd.UDP, Port: 53}),
	}
	want := strings.Split(`WEB_DB_PORT=udp://172.17.0.2:53
WEB_DB_PORT_27017_TCP_START=tcp://172.17.0.2:27017
WEB_DB_PORT_27017_TCP_ADDR=172.17.0.2
WEB_DB_PORT_27017_TCP_PROTO=tcp
WEB_DB_PORT_27017_TCP_PORT_START=27017
WEB_DB_PORT_27017_TCP_END=tcp://172.17.0.2:27019
WEB_DB_PORT_27017_TCP_PORT_END=27019
WEB_DB_PORT_27017_TCP=tcp://172.17.0.2:27017
WEB_DB_PORT_27017_TCP_ADDR=172.17.0.2
WEB_DB_PORT_27017_TCP_PORT=27017
WEB_DB_PORT_27017_TCP_PROTO=tcp
WEB_DB_PORT_27018_TCP=tcp://172.17.0.2:27018
WEB_DB_PORT_27018_TCP_ADDR=172.17.0.2
WEB_DB_PORT_27018_TCP_PORT=27018
WEB_DB_PORT_27018_TCP_PROTO=tcp
WEB_DB_PORT_27019_TCP=tcp://172.17.0.2:27019
WEB_DB_PORT_27019_TCP_ADDR=172.17.0.2
WEB_DB_PORT_27019_TCP_PORT=27019
WEB_DB_PORT_27019_TCP_PROTO=tcp
WEB_DB_PORT_53_UDP=udp://172.17.0.2:53
WEB_DB_PORT_53_UDP_ADDR=172.17.0.2
WEB_DB_PORT_53_UDP_PORT=53
WEB_DB_PORT_53_UDP_PROTO=udp
WEB_DB_NAME=/web/web-db
WEB_DB_ENV_doc=docker`, "\n")
	if got := linkEnv("web-db", "web", "172.17.0.2", child); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

// TestLegacyLink is LK1, LK2, LK5 and LK6: web links to db on the default bridge with icc off.
func TestLegacyLink(t *testing.T) {
	no := false
	r := newRig(t, func(c *Config) { c.Bridge.ICC, c.Profile = &no, Profile2010 })
	db := sandboxConf("db")
	db.Hostname, db.Expose = "dbhost", tcp(27017)
	child := r.run(db)
	web := sandboxConf("web")
	web.Links = []string{"db:webdb"}
	parent := r.run(web)
	if !slices.Contains(parent.j.Env, "WEBDB_NAME=/web/webdb") || !slices.Contains(parent.j.Env, "WEBDB_PORT=tcp://172.17.0.2:27017") {
		t.Errorf("variables are %v", parent.j.Env)
	}
	contains(t, "hosts", parent.ns.File("/etc/hosts"), "172.17.0.2\twebdb dbhost db\n")
	holes := func(b *box) []spec.Accept {
		return r.dp.Network(b.leg("bridge").NetworkID).Endpoints[b.leg("bridge").ID].Accept
	}
	want := []spec.Accept{{From: parent.leg("bridge").ID, Proto: "tcp", Port: 27017}}
	if got := holes(child); !slices.Equal(got, want) {
		t.Errorf("holes are %v, want %v", got, want)
	}
	if got := holes(parent); len(got) != 0 {
		t.Errorf("the parent has holes %v", got)
	}
	// The child starts anew elsewhere: the parent's line follows.
	child.Close()
	r.settled()
	if f := parent.ns.File("/etc/hosts"); strings.Contains(f, "webdb") {
		t.Errorf("the line of a child that has gone is left:\n%s", f)
	}
	r.run(sandboxConf("between"))
	again := r.run(db)
	r.settled()
	contains(t, "hosts", parent.ns.File("/etc/hosts"), "172.17.0.4\twebdb dbhost db\n")
	if got := holes(again); !slices.Equal(got, want) {
		t.Errorf("holes are %v, want %v", got, want)
	}
	parent.Close()
	if got := holes(again); len(got) != 0 {
		t.Errorf("holes for a parent that has gone: %v", got)
	}
	r.settled()
	r.check(again)
}

// TestCurrentLinkHasNoVariables: Docker 29 sets none.
func TestCurrentLinkHasNoVariables(t *testing.T) {
	r := newRig(t)
	r.run(sandboxConf("db"))
	web := sandboxConf("web")
	web.Links = []string{"db"}
	b := r.run(web)
	if len(b.j.Env) != 0 {
		t.Errorf("variables are %v", b.j.Env)
	}
	contains(t, "hosts", b.ns.File("/etc/hosts"), "172.17.0.2\tdb "+idOf("db")[:12]+"\n")
}

// TestNamedLink is C-co5, LK7 and LK8: an alias in the receiver's view alone, no line, no variables, no target needed.
func TestNamedLink(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Profile = Profile2010 })
	r.create("n1", "")
	s := sandboxConf("web", "n1")
	s.Networks[0].Links = []string{"db:x"}
	s.Links = []string{"cache"}
	web := r.run(s)
	db := r.run(sandboxConf("db", "n1"))
	view := func(b *box) map[string][]string {
		return r.dp.Network(b.leg("n1").NetworkID).Endpoints[b.leg("n1").ID].Resolver.Links
	}
	if got := view(web); len(got) != 2 || !slices.Equal(got["x"], []string{"db"}) || !slices.Equal(got["cache"], []string{"cache"}) {
		t.Errorf("aliases are %v", got)
	}
	if got := view(db); got != nil {
		t.Errorf("the target has aliases %v", got)
	}
	if f := web.ns.File("/etc/hosts"); strings.Contains(f, "db") || len(web.j.Env) != 0 {
		t.Errorf("variables %v, hosts\n%s", web.j.Env, f)
	}
}

// TestLinkRefused has the errors of 2.10.
func TestLinkRefused(t *testing.T) {
	r := newRig(t)
	r.create("n1", "")
	r.run(sandboxConf("far", "n1"))
	for _, row := range []struct {
		link string
		kind fault.Kind
		text string
	}{
		{"db", fault.NotFound, "could not get container for db: No such container: db"},
		{"far:x", fault.Invalid, "Cannot link to /far, as it does not belong to the default network"},
		{"", fault.Invalid, "empty string specified for links"},
		{"a:b:c", fault.Invalid, "bad format for links: a:b:c"},
	} {
		s := sandboxConf("web")
		s.Links = []string{row.link}
		_, _, err := r.c.Join(context.Background(), s, newRigNamespace())
		wantErr(t, row.link, err, row.kind, row.text)
		r.check()
	}
}

// TestHosts is what --add-host and --domainname make of /etc/hosts.
func TestHosts(t *testing.T) {
	r := newRig(t)
	s := sandboxConf("c1")
	s.Hostname, s.Domainname = "h", "example.org"
	s.ExtraHosts = []Host{{Name: "outside"}}
	b := r.run(s)
	contains(t, "hosts", b.ns.File("/etc/hosts"), "127.0.0.1\tlocalhost\n", "172.17.0.1\toutside\n", "172.17.0.2\th.example.org h\n")
	if got := b.ns.File("/etc/hostname"); got != "h\n" {
		t.Errorf("hostname is %q", got)
	}
}

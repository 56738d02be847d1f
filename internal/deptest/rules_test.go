package deptest

import (
	"testing"
)

// A rule forbids imports.
type rule struct {
	who, except   []string // the packages it binds
	never, unless []string // what they do not import
	deep          bool     // neither directly nor through others
	tests         bool     // their tests neither
	because       string
}

var (
	everything = []string{"api/...", "cmd/...", "cnm/...", "compat/...", "dnsproxy/...", "internal/...",
		"overlay/...", "portfwd/...", "rootless-tests/...", "stack/...", "tap/..."}
	dataPlane = []string{"stack/...", "tap/...", "portfwd/...", "dnsproxy/..."}
	control   = []string{"internal/cli/...", "internal/control/...", "internal/shim/...", "internal/datapath/...",
		"internal/daemon/...", "cnm/...", "api/...", "compat/..."}
	gvisor = []string{"gvisor.dev/gvisor/..."}
)

var rules = []rule{
	{
		who: everything, except: []string{"stack/gateway/..."}, never: gvisor, tests: true,
		because: "gVisor's types end at the gateway: what else moves packets is ours, and testable without a stack",
	},
	{
		// Only what assembles a Network, and what starts it, links the TCP stack.
		who: everything, except: []string{"stack", "stack/gateway/...", "cmd/...", "rootless-tests/..."}, never: gvisor, deep: true,
		because: "the shim and the sandbox's init start in milliseconds and stay small because cmd alone brings in the datapath",
	},
	{
		// How a Link is to be addressed is said in cnm/plumb, a leaf.
		who: dataPlane, never: control, unless: []string{"cnm/plumb"}, deep: true, tests: true,
		because: "the data plane is told what to do by messages; a package of it that knew who tells it could not be confined alone",
	},
	{
		who:     []string{"stack/l2", "stack/drop"},
		never:   everything,
		because: "the nouns are a leaf: TAP, switch, gateway and VTEP import them and not each other",
	},
	{
		who:     []string{"stack/spec"},
		never:   everything,
		unless:  []string{"stack/l2", "stack/drop"},
		because: "control and the datapath share the spec and nothing else of each other",
	},
	{
		who:   []string{"stack/l2", "stack/drop", "stack/spec", "stack/fdb", "stack/bridge", "stack/capture", "stack/gso", "stack/ip"},
		never: []string{thirdParty, "internal/...", "tap/...", "portfwd/...", "dnsproxy/..."}, deep: true,
		because: "what reads hostile bytes rests on the standard library and is portable",
	},
	{
		who:   []string{"stack/l2", "stack/drop", "stack/spec", "stack/fdb", "stack/bridge", "stack/capture", "stack/gso", "stack/ip", "stack/nat"},
		never: []string{"stack", "stack/gateway/..."}, deep: true, tests: true,
		because: "the parts of a Network do not know the whole",
	},
	{
		who: []string{"tap/...", "portfwd/...", "dnsproxy/..."}, never: []string{"stack", "stack/bridge/...", "stack/gateway/..."},
		because: "they meet the stack at l2.Port, ip.Emitter and portfwd.Dialer",
	},
	{
		who: []string{"stack/bridge/...", "stack/fdb/...", "stack/gateway/...", "stack/capture/..."}, never: []string{"tap/..."},
		because: "the switch and the gateway see an l2.Port, never a TAP",
	},
	{
		who:     []string{"cnm/fault", "cnm/plumb"},
		never:   everything,
		unless:  []string{"stack/l2"},
		because: "shim and API share them with the Controller and nothing else of it",
	},
	{
		who:   []string{"cnm", "cnm/..."},
		never: []string{"api/...", "internal/..."}, unless: []string{"internal/hostsfile", "internal/proctest", "internal/sys", "internal/trim"}, deep: true, tests: true,
		because: "the model asks a Datapath and a Namespace, and is tested against both in memory; who stands behind them is the daemon's affair",
	},
	{
		who:   []string{"cnm/driver/...", "cnm/fault", "cnm/ipam/...", "cnm/plumb", "cnm/store"},
		never: []string{"cnm"}, deep: true, tests: true,
		because: "what the Controller is made of does not know it",
	},
	{
		who:   []string{"cnm/driver/..."},
		never: []string{"cnm/ipam/...", "cnm/store", "dnsproxy/...", "portfwd/...", "tap/..."}, deep: true,
		because: "a driver is a function of options and addresses: it stores nothing, gives out nothing and opens nothing",
	},
	{
		who:   []string{"internal/control/...", "internal/datapath/..."},
		never: []string{"api/...", "cnm/..."}, unless: []string{"cnm/plumb"}, deep: true, tests: true,
		because: "the Controller's Datapath is a control.Control, which a private sandbox has too and without a Controller",
	},
	{
		// A Link, its routes and files are said in cnm/plumb.
		who:   []string{"internal/shim/...", "tap/..."},
		never: []string{"api/...", "cnm/...", "internal/control/...", "internal/join/..."}, unless: []string{"cnm/plumb"}, deep: true, tests: true,
		because: "the shim makes what it is told, and runs in each sandbox; who tells it stands in internal/join and internal/control",
	},
	{
		who:   []string{"internal/join/..."},
		never: []string{"api/...", "internal/daemon/...", "internal/engine/..."}, deep: true, tests: true,
		because: "a sandbox speaks to the Controller; the API is for people",
	},
	{
		who:   []string{"api/..."},
		never: []string{"cnm", "internal/engine/...", "internal/daemon/...", "internal/control/..."}, deep: true, tests: true,
		because: "the API serves an api.Backend, whatever that is",
	},
	{
		who:   []string{"api/client"},
		never: []string{"api", "cnm/...", "internal/..."}, deep: true,
		because: "the client shares Docker's types with the server and nothing of its own, as any other client would",
	},
	{
		who: everything, except: []string{"internal/cli/...", "cmd/...", "compat/..."}, never: []string{"github.com/spf13/..."}, deep: true,
		because: "flags are the front end's; the re-executed roles must not pay for parsing commands",
	},
	{
		who: everything, except: []string{"cmd/...", "rootless-tests/..."}, never: []string{"cmd/...", "rootless-tests/..."}, tests: true,
		because: "cmd is wiring, rootless-tests runs the finished binary: nothing builds on either",
	},
	{
		who: everything, except: []string{"internal/packettest", "internal/proctest", "tap/taptest", "rootless-tests/..."},
		never:   []string{"std/testing", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/google/go-cmp/..."},
		because: "test code does not belong in the binary",
	},
	{
		who: []string{"internal/packettest"}, never: []string{thirdParty}, deep: true,
		because: "the kit that checks the codecs must not share code with what it checks",
	},
	{
		who: everything, never: []string{"std/log"}, tests: true,
		because: "logs go through the injected slog.Logger",
	},
}

func TestDependencies(t *testing.T) {
	packages := load(t)
	for _, r := range rules {
		for _, p := range packages {
			for _, bad := range r.check(p) {
				how := "imports"
				if r.deep {
					how = "depends on"
				}
				t.Errorf("%s %s %s: %s", p.ImportPath, how, bad, r.because)
			}
		}
	}
}

// A rule that cannot fail protects nothing.
func TestRulesCanFail(t *testing.T) {
	gv := "gvisor.dev/gvisor/pkg/tcpip"
	for _, row := range []struct {
		p    pkg
		want int // rules that it breaks
	}{
		{pkg{ImportPath: "stack/nat", Imports: []string{gv}, Deps: []string{gv}}, 2},
		{pkg{ImportPath: "stack/nat", TestImports: []string{gv}}, 1},
		{pkg{ImportPath: "stack/gateway", Imports: []string{gv}, Deps: []string{gv}}, 0},
		{pkg{ImportPath: "internal/control", Imports: []string{"stack"}, Deps: []string{"stack", gv}}, 1},
		{pkg{ImportPath: "stack", Imports: []string{"stack/gateway"}, Deps: []string{"stack/gateway", gv}}, 0},
		{pkg{ImportPath: "cmd/usernet", Imports: []string{"stack"}, Deps: []string{"stack", gv}}, 0},
		{pkg{ImportPath: "tap", Imports: []string{"internal/sys"}, Deps: []string{"internal/sys", "internal/shim"}}, 1},
		{pkg{ImportPath: "stack/l2", Imports: []string{"stack/ip"}, Deps: []string{"stack/ip"}}, 1},
		{pkg{ImportPath: "stack/spec", Imports: []string{"stack/l2"}, Deps: []string{"stack/l2"}}, 0},
		{pkg{ImportPath: "stack/bridge", Imports: []string{"golang.org/x/net/bpf"}, Deps: []string{"golang.org/x/net/bpf"}}, 1},
		{pkg{ImportPath: "cnm/plumb", Imports: []string{"stack/l2"}}, 0},
		{pkg{ImportPath: "cnm/plumb", Imports: []string{"stack/spec"}}, 1},
		{pkg{ImportPath: "cnm", Imports: []string{"stack/spec"}, Deps: []string{"stack/spec", "internal/sys"}}, 0},
		{pkg{ImportPath: "cnm", TestImports: []string{"internal/control"}}, 1},
		{pkg{ImportPath: "cnm", Deps: []string{"internal/shim"}}, 1},
		{pkg{ImportPath: "cnm/ipam", Deps: []string{"cnm"}}, 1},
		{pkg{ImportPath: "cnm/store", TestImports: []string{"cnm"}}, 1},
		{pkg{ImportPath: "cnm/driver/bridge", Deps: []string{"cnm/driver", "cnm/fault"}}, 0},
		{pkg{ImportPath: "cnm/driver/bridge", Deps: []string{"cnm", "cnm/ipam"}}, 2},
		{pkg{ImportPath: "internal/control", Deps: []string{"cnm/plumb"}}, 0},
		{pkg{ImportPath: "internal/control/registry", Deps: []string{"cnm/fault"}}, 1},
		{pkg{ImportPath: "internal/shim", Deps: []string{"cnm/plumb"}}, 0},
		{pkg{ImportPath: "internal/shim", TestImports: []string{"internal/join"}}, 1},
		{pkg{ImportPath: "internal/join", Deps: []string{"cnm", "internal/shim"}}, 0},
		{pkg{ImportPath: "internal/join", Deps: []string{"internal/engine"}}, 1},
		{pkg{ImportPath: "api", Deps: []string{"cnm/fault", "internal/localhttp"}}, 0},
		{pkg{ImportPath: "api", Deps: []string{"internal/engine"}}, 1},
		{pkg{ImportPath: "api/client", Deps: []string{"github.com/moby/moby/api/types/network"}}, 0},
		{pkg{ImportPath: "api/client", Deps: []string{"cnm/fault"}}, 1},
		{pkg{ImportPath: "dnsproxy", Imports: []string{"std/testing", "std/log"}}, 2},
		{pkg{ImportPath: "dnsproxy", TestImports: []string{"std/testing"}}, 0},
	} {
		n := 0
		for _, r := range rules {
			if len(r.check(row.p)) > 0 {
				n++
			}
		}
		if n != row.want {
			t.Errorf("%+v breaks %d rules, want %d", row.p, n, row.want)
		}
	}
}

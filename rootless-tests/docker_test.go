package rootlesstests

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// The network commands, typed at docker's own client and at ours: both must say the same. The daemon is the same
// for a whole table, so a row may build on those before it.

// networkRow is a command of `docker network` or `usernet network`, and what it must say.
type networkRow struct {
	id     string // of the requirement
	args   string // words, separated by blanks; a quoted word may hold some
	code   int
	stdout string // a regular expression; empty: nothing is said
	stderr string
}

const (
	hex12 = `[0-9a-f]{12}`
	hex64 = `[0-9a-f]{64}`
)

var networkRows = []networkRow{
	{"C-ls4", `ls`, 0, `^NETWORK ID +NAME +DRIVER +SCOPE\n` + hex12 + ` +bridge +bridge +local\n` + hex12 + ` +host +host +local\n` + hex12 + ` +none +null +local\n$`, ``},
	{"C-ls3", `ls --no-trunc -q`, 0, `^(` + hex64 + `\n){3}$`, ``},
	{"C-ls1", `list --format {{.Name}}:{{.Driver}}:{{.Scope}}:{{.IPv6}}:{{.Internal}}`, 0, `^bridge:bridge:local:false:false\nhost:host:local:false:false\nnone:null:local:false:false\n$`, ``},
	{"C-ls2", `ls -f type=custom -q`, 0, ``, ``},
	{"C-ls2", `ls -f driver=null --format {{.Name}}`, 0, `^none\n$`, ``},
	{"C-ls2", `ls -f name=o --format {{.Name}}`, 0, `^host\nnone\n$`, ``},
	{"C-ls2", `ls -f x=y`, 1, ``, `^Error response from daemon: invalid filter 'x'\n$`},
	{"C-ls2", `ls -f dangling=maybe`, 1, ``, `^Error response from daemon: invalid value for filter 'dangling'`},
	{"C-ls2", `ls -f type=odd`, 1, ``, `^Error response from daemon: invalid filter: 'type'='odd'\n$`},
	{"C-in2", `inspect -f '{{json .IPAM.Config}}' none`, 0, `^(null|\[\])\n$`, ``},
	{"DB2", `inspect -f '{{index .Options "com.docker.network.bridge.name"}}' bridge`, 0, `^docker0\n$`, ``},
	{"DB11", `inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}' bridge`, 0, `^172\.17\.0\.0/16 172\.17\.0\.1\n$`, ``},

	{"C-cr1", `create n1`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr1", `create n1`, 1, ``, `^Error response from daemon: network with name n1 already exists\n$`},
	{"C-cr1", `create bridge`, 1, ``, `^Error response from daemon: operation is not permitted on predefined bridge network\s*\n$`},
	{"C-cr1", `create`, 1, ``, `requires 1 argument`},
	{"C-cr3", `create -d host h2`, 1, ``, `^Error response from daemon: only one instance of "host" network is allowed\n$`},
	{"C-cr3", `create -d null n2`, 1, ``, `^Error response from daemon: only one instance of "null" network is allowed\n$`},
	{"C-cr3", `create -d foo n2`, 1, ``, `could not find plugin foo in v1 plugin registry: plugin not found\n$`},
	{"C-cr12", `create --subnet 172.28.0.0/16 --ip-range 172.28.5.0/24 --gateway 172.28.5.254 --aux-address host1=172.28.1.5 --aux-address host2=172.28.1.6 br0`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr2", `inspect -f '{{json .IPAM.Config}}' br0`, 0, `"AuxiliaryAddresses":{"host1":"172\.28\.1\.5","host2":"172\.28\.1\.6"}`, ``},
	{"C-cr4", `inspect -f '{{range .IPAM.Config}}{{.Gateway}}{{end}}' br0`, 0, `^172\.28\.5\.254\n$`, ``},
	{"C-cr6", `inspect -f '{{range .IPAM.Config}}{{.IPRange}}{{end}}' br0`, 0, `^172\.28\.5\.0/24\n$`, ``},
	{"C-cr12", `create --subnet 172.28.0.0/16 br1`, 1, ``, `^Error response from daemon: invalid pool request: Pool overlaps with other one on this address space\n$`},
	{"C-cr12", `create --subnet 10.0.0.1/8 br1`, 1, ``, `invalid subnet 10\.0\.0\.1/8: it should be 10\.0\.0\.0/8\n$`},
	{"C-cr12", `create --subnet 10.5.0.0/24 --subnet 10.6.0.0/24 br1`, 1, ``, `bridge driver doesn't support multiple subnets\n$`},
	{"C-cr4", `create --gateway 10.9.0.1 br1`, 1, ``, `every ip-range or gateway must have a corresponding subnet\n$`},
	{"C-cr4", `create --subnet 10.5.0.0/24 --gateway 10.9.0.1 br1`, 1, ``, `no matching subnet for gateway 10\.9\.0\.1\n$`},
	{"C-cr6", `create --subnet 10.5.0.0/24 --ip-range 10.9.0.0/28 br1`, 1, ``, `no matching subnet for range 10\.9\.0\.0/28\n$`},
	{"C-cr2", `create --subnet 10.5.0.0/24 --aux-address a=10.9.0.1 br1`, 1, ``, `no matching subnet for aux-address 10\.9\.0\.1\n$`},
	{"C-cr12", `create --subnet 10.5.0.0/24 --subnet 10.5.0.0/16 br1`, 1, ``, `multiple overlapping subnet configuration is not supported\n$`},
	{"C-cr5", `create --internal inside`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr5", `inspect -f {{.Internal}} inside`, 0, `^true\n$`, ``},
	{"C-cr7", `create --ipam-driver null nothing`, 1, ``, `^Error response from daemon: ipv4 pool is empty\n$`},
	{"C-cr7", `create --ipam-driver default given`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr7", `inspect -f {{.IPAM.Driver}} given none`, 0, `^default\nnull\n$|^default\ndefault\n$`, ``},
	{"C-cr8", `create --ipam-opt foo=bar opted`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr8", `inspect -f {{.IPAM.Options.foo}} opted`, 0, `^bar\n$`, ``},
	{"C-cr9", `create --ipv6 six`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr9", `inspect -f '{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{end}}' six`, 0, `^true 172\.\d+\.0\.0/16 fd[0-9a-f:]+/64 \n$`, ``},
	{"C-cr10", `create --label a=1 --label b labelled`, 0, `^` + hex64 + `\n$`, ``},
	{"C-ls2", `ls -f label=a=1 -f label=b --format {{.Name}}`, 0, `^labelled\n$`, ``},
	{"C-ls2", `ls -f label=a=2 --format {{.Name}}`, 0, ``, ``},
	{"C-cr11", `create -o com.docker.network.driver.mtu=1400 -o com.docker.network.bridge.enable_icc=false tuned`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr11", `inspect -f '{{json .Options}}' tuned`, 0, `"com.docker.network.bridge.enable_icc":"false","com.docker.network.driver.mtu":"1400"`, ``},
	{"C-cr11", `create -o com.docker.network.bridge.enable_icc=x bad`, 1, ``, `^Error response from daemon: failed to parse com\.docker\.network\.bridge\.enable_icc: x \(strconv\.ParseBool: .*\)\n$`},
	{"C-cr3", `create -d overlay over`, 1, ``, `^Error response from daemon: This node is not a swarm manager\. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again\.\n$`},
	{"C-cr1", `create --config-only --subnet 10.77.0.0/24 conf`, 0, `^` + hex64 + `\n$`, ``},
	{"C-cr1", `create --config-from conf fromconf`, 0, `^` + hex64 + `\n$`, ``},
	{"C-in1", `inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}} {{.ConfigFrom.Network}}' fromconf`, 0, `^10\.77\.0\.0/24 conf\n$`, ``},
	{"C-rm1", `rm conf`, 1, ``, `configuration network "conf" is in use\nexit status 1\n$`},

	{"C-in1", `inspect nosuch`, 1, `^\[\]\n$`, `^Error response from daemon: network nosuch not found\n$`},
	{"C-in2", `inspect -f '{{.Name}} {{.Scope}} {{.EnableIPv6}}' n1 nosuch`, 1, `^n1 local false\n$`, `network nosuch not found`},
	{"C-rm1", `rm bridge`, 1, ``, `^Error response from daemon: bridge is a pre-defined network and cannot be removed\nexit status 1\n$`},
	{"C-rm1", `rm nosuch`, 1, ``, `^Error response from daemon: network nosuch not found\nexit status 1\n$`},
	{"C-rm1", `rm -f nosuch`, 0, ``, ``},
	{"C-rm1", `rm n1 nosuch br0`, 1, `^n1\nbr0\n$`, `network nosuch not found\nexit status 1\n$`},
	{"C-pr1", `prune -f --filter label!=a`, 0, `^Deleted Networks:\n(\w+\n)+\n?$`, ``},
	{"C-ls2", `ls -f type=custom --format {{.Name}}`, 0, `(?m)^labelled$`, ``},
	{"C-pr1", `prune -f`, 0, `labelled`, ``},
}

func TestNetworkCommands(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, program := range []string{"docker", "usernet"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			d := r.Daemon(t)
			for _, row := range networkRows {
				got := d.Try(t, append([]string{program, "network"}, words(row.args)...)...)
				if err := row.check(got); err != nil {
					t.Errorf("%s: %s network %s: %v\nstdout: %s\nstderr: %s", row.id, program, row.args, err, got.Stdout, got.Stderr)
				}
			}
		})
	}
}

func (row *networkRow) check(got rig.Result) error {
	if got.Code != row.code {
		return fmt.Errorf("exit code %d, want %d", got.Code, row.code)
	}
	for _, o := range []struct{ name, got, want string }{{"stdout", got.Stdout, row.stdout}, {"stderr", got.Stderr, row.stderr}} {
		if o.want == "" && o.got != "" || !regexp.MustCompile(o.want).MatchString(o.got) {
			return fmt.Errorf("%s does not match %q", o.name, o.want)
		}
	}
	return nil
}

// words splits a command line at blanks outside of single quotes.
func words(line string) (ws []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			ws = append(ws, part)
			continue
		}
		ws = append(ws, strings.Fields(part)...)
	}
	return ws
}

// Containers on networks, by docker's client: connect and disconnect with every flag, ps, inspect, events.
func TestDockerContainers(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "docker", "network", "create", "--subnet", "10.88.0.0/24", "--ipv6", "--subnet", "fd88::/64", "n1")
	d.Must(t, "docker", "network", "create", "--subnet", "10.89.0.0/24", "n2")
	c1 := d.Run(t, "--name", "c1", "--network", "n1", "-p", fmt.Sprintf("127.0.0.1:%d:80", nextPort()))

	// The pid of the container leads to its namespaces (C-run5).
	pid := d.Must(t, "docker", "inspect", "-f", "{{.State.Pid}}", "c1")
	inside := c1.Node.Run(t, "readlink", "/proc/self/ns/net")
	if outside := r.H.Run(t, "readlink", "/proc/"+pid+"/ns/net"); outside != inside {
		t.Errorf("the namespace of pid %s is %s, the container's is %s", pid, outside, inside)
	}
	if got := d.Must(t, "docker", "ps", "--format", "{{.Names}} {{.Status}}"); !strings.HasPrefix(got, "c1 Up") {
		t.Errorf("docker ps: %q", got)
	}

	for _, row := range []struct {
		id, args string
		code     int
		stderr   string
	}{
		{"C-co2", "connect --alias db --alias store --ip 10.89.0.77 n2 c1", 0, ""},
		{"C-co1", "connect n2 c1", 1, `endpoint with name c1 already exists in network n2`},
		{"C-co1", "connect nosuch c1", 1, `network nosuch not found`},
		{"C-co1", "connect n2 nobody", 1, `No such container: nobody`},
		{"C-co1", "connect host c1", 1, `cannot connect container to host network - container must be created in host network mode`},
		{"C-di1", "disconnect n2 c1", 0, ""},
		{"C-di1", "disconnect n2 c1", 1, `is not connected to (the )?network n2`},
		{"C-co3", "connect --ip 10.1.2.3 n2 c1", 1, `no configured subnet contains IP address 10\.1\.2\.3`},
		{"C-co3", "connect --ip 10.89.0.1 n2 c1", 1, `Address already in use`},
		{"C-co6", "connect --link-local-ip 169.254.34.68 n2 c1", 0, ""},
		{"C-di2", "disconnect -f n2 c1", 0, ""},
		{"C-co5", "connect --link c1:me n2 c1", 0, ""},
		{"C-rm1", "rm n2", 1, `network n2 has active endpoints \(name:"c1" id:"` + hex12 + `"\)`},
		{"C-di1", "disconnect n2 c1", 0, ""},
		{"C-di1", "disconnect n1 c1", 0, ""},
		{"C-co4", "connect --ip6 fd88::42 n1 c1", 0, ""},
	} {
		got := d.Try(t, append([]string{"docker", "network"}, words(row.args)...)...)
		if got.Code != row.code || !regexp.MustCompile(row.stderr).MatchString(got.Stderr) || row.stderr == "" && got.Stderr != "" {
			t.Errorf("%s: docker network %s: code %d, want %d; stderr %q, want %q", row.id, row.args, got.Code, row.code, got.Stderr, row.stderr)
		}
	}
	if out := c1.Node.Run(t, "ip", "-o", "addr", "show"); !strings.Contains(out, "fd88::42/64") || strings.Contains(out, "10.89.") {
		t.Errorf("addresses after all that:\n%s", out)
	}
	events := d.Must(t, "docker", "events", "--since", "1h", "--until", time.Now().Format(time.RFC3339Nano), "--filter", "type=network", "--format", "{{.Action}}")
	if n := strings.Count(events, "disconnect"); n != 4 || strings.Count(events, "create") < 2 {
		t.Errorf("events:\n%s", events)
	}
	d.Must(t, "docker", "rm", "-f", "c1")
	c1.Exit(t)
}

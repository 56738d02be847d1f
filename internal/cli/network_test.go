package cli

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/api/client"
)

// fakeDaemon is a daemon that says what a test wants and remembers what it was asked.
type fakeDaemon struct {
	// answers are bodies by "METHOD path"; an error is a body that begins with a status.
	answers map[string]string
	asked   []string // METHOD path?query body
}

const idA = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000000"

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	q := ""
	if r.URL.RawQuery != "" {
		q = "?" + r.URL.Query().Encode()
	}
	line := r.Method + " " + r.URL.Path + q
	if len(body) > 0 {
		line += " " + string(body)
	}
	d.asked = append(d.asked, line)
	answer, ok := d.answers[r.Method+" "+r.URL.Path]
	if !ok {
		answer = `404 network ` + filepath.Base(r.URL.Path) + ` not found`
	}
	if code, text, ok := strings.Cut(answer, " "); ok && len(code) == 3 {
		w.WriteHeader(map[string]int{"400": 400, "403": 403, "404": 404, "409": 409}[code])
		json.NewEncoder(w).Encode(map[string]string{"message": text})
		return
	}
	io.WriteString(w, answer)
}

// ask runs a command with d as its daemon and input as its standard input.
func (d *fakeDaemon) ask(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: d}}
	srv.Start()
	defer srv.Close()
	c := client.New(filepath.Join(dir, "s"))
	defer c.Close()
	var files [3]*os.File
	for i, name := range []string{"in", "out", "err"} {
		if files[i], err = os.Create(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
	}
	if _, err := files[0].WriteString(input); err != nil {
		t.Fatal(err)
	}
	files[0].Seek(0, io.SeekStart)
	a := &app{args: args, env: []string{"PATH=/usr/bin:/bin"}, stdio: Stdio{files[0], files[1], files[2]},
		connect: func(context.Context, bool) (*client.Client, error) { return c, nil }}
	code := a.main()
	out, _ := os.ReadFile(files[1].Name())
	stderr, _ := os.ReadFile(files[2].Name())
	return outcome{code, string(out), string(stderr)}
}

const threeNetworks = `[
 {"Name":"none","Id":"cccccccccccc0000000000000000000000000000000000000000000000000000","Created":"2026-01-02T03:04:05Z","Scope":"local","Driver":"null","EnableIPv4":true},
 {"Name":"n10","Id":"bbbbbbbbbbbb0000000000000000000000000000000000000000000000000000","Created":"2026-01-02T03:04:05Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":true,"Internal":true,"Labels":{"b":"2","a":"1"}},
 {"Name":"n2","Id":"` + idA + `","Created":"2026-01-02T03:04:05Z","Scope":"local","Driver":"bridge","EnableIPv4":true}]`

// C-ls1 to C-ls4: what network ls prints in each format, and what it asks for.
func TestNetworkList(t *testing.T) {
	for _, row := range []struct {
		id, args, want string
	}{
		{"C-ls1, C-ls4", "network ls", "NETWORK ID     NAME      DRIVER    SCOPE\n" +
			"aaaaaaaaaaaa   n2        bridge    local\nbbbbbbbbbbbb   n10       bridge    local\ncccccccccccc   none      null      local\n"},
		{"C-ls1", "network list -q", "aaaaaaaaaaaa\nbbbbbbbbbbbb\ncccccccccccc\n"},
		{"C-ls3", "network ls -q --no-trunc --format {{.Name}}", "n2\nn10\nnone\n"},
		{"C-ls3", "network ls --no-trunc --format {{.ID}}", idA + "\nbbbbbbbbbbbb" + strings.Repeat("0", 52) + "\ncccccccccccc" + strings.Repeat("0", 52) + "\n"},
		{"C-ls1", `network ls --format table\t{{.Name}}\t{{.Label\x20"a"}}`, "          NAME      a\n          n2\n          n10       1\n          none\n"},
		{"C-ls1", `network ls --format {{upper\x20.Name}}-{{.Internal}}-{{.IPv6}}-{{.Labels}}`, "N2-false-false-\nN10-true-true-a=1,b=2\nNONE-false-false-\n"},
		{"C-ls1", "network ls -q --format raw", "network_id: aaaaaaaaaaaa\nnetwork_id: bbbbbbbbbbbb\nnetwork_id: cccccccccccc\n"},
		{"C-ls1", `network ls --format {{pad\x20.Name\x201\x202}}|{{truncate\x20.ID\x202}}|{{title\x20.Driver}}`, " n2  |aa|Bridge\n n10  |bb|Bridge\n none  |cc|Null\n"},
		{"C-ls1", `network ls --format {{join\x20(split\x20.ID\x20"a")\x20""}}{{println}}`, strings.Repeat("\n\n", 0) + "\n\nbbbbbbbbbbbb\n\ncccccccccccc\n\n"},
	} {
		d := &fakeDaemon{answers: map[string]string{"GET /networks": threeNetworks}}
		args := strings.Fields(row.args)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], `\x20`, " ")
		}
		if got := d.ask(t, "", args...); got.code != 0 || got.out != row.want || got.stderr != "" {
			t.Errorf("%s: %s: code %d, stderr %q\n got %q\nwant %q", row.id, row.args, got.code, got.stderr, got.out, row.want)
		}
	}
	d := &fakeDaemon{answers: map[string]string{"GET /networks": threeNetworks}}
	got := d.ask(t, "", "network", "ls", "--format", "json")
	first, _, _ := strings.Cut(got.out, "\n")
	if !strings.HasPrefix(first, `{"CreatedAt":"2026-01-02 03:04:05`) || !strings.HasSuffix(first, `"Driver":"bridge","ID":"aaaaaaaaaaaa","IPv4":"true","IPv6":"false","Internal":"false","Labels":"","Name":"n2","Scope":"local"}`) {
		t.Errorf("json: %s", first)
	}
	d.asked = nil
	d.ask(t, "", "network", "ls", "-f", "driver=bridge", "--filter", "Label=a=1", "-f", "label=b")
	if want := []string{"GET /networks?filters=%7B%22driver%22%3A%7B%22bridge%22%3Atrue%7D%2C%22label%22%3A%7B%22a%3D1%22%3Atrue%2C%22b%22%3Atrue%7D%7D"}; !cmp.Equal(d.asked, want) {
		t.Errorf("C-ls2: asked %q", d.asked)
	}
	if got := d.ask(t, "", "network", "ls", "-f", "driver"); got.code != 125 || !strings.Contains(got.stderr, "bad format of filter (expected name=value)") {
		t.Errorf("C-ls2: %+v", got)
	}
	d.answers["GET /networks"] = `400 invalid filter 'x'`
	if got := d.ask(t, "", "network", "ls", "-f", "x=y"); got.code != 1 || got.stderr != "Error response from daemon: invalid filter 'x'\n" {
		t.Errorf("C-ls2: %+v", got)
	}
	if got := d.ask(t, "", "network", "ls", "--format", "{{.Nope}}"); got.code != 1 {
		t.Errorf("%+v", got)
	}
}

// C-cr1 to C-cr12: the request of each flag.
func TestNetworkCreate(t *testing.T) {
	const empty = `"Attachable":false,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,`
	for _, row := range []struct{ id, args, want string }{
		{"C-cr1", "n1", `{"Name":"n1","Driver":"bridge","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[]},"Internal":false,` + empty + `"Options":{},"Labels":{}}`},
		{"C-cr2, C-cr4, C-cr6, C-cr12", "--subnet 172.28.0.0/16 --ip-range 172.28.5.0/24 --gateway 172.28.5.254 --aux-address host1=172.28.1.5 n1",
			`{"Name":"n1","Driver":"bridge","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"172.28.0.0/16","IPRange":"172.28.5.0/24","Gateway":"172.28.5.254","AuxiliaryAddresses":{"host1":"172.28.1.5"}}]},"Internal":false,` + empty + `"Options":{},"Labels":{}}`},
		{"C-cr3, C-cr5, C-cr7, C-cr8, C-cr10, C-cr11", "-d null --internal --ipam-driver null --ipam-opt a=b --label l --label k=v -o com.docker.network.driver.mtu=1400 n1",
			`{"Name":"n1","Driver":"null","Scope":"","IPAM":{"Driver":"null","Options":{"a":"b"},"Config":[]},"Internal":true,` + empty + `"Options":{"com.docker.network.driver.mtu":"1400"},"Labels":{"k":"v","l":""}}`},
		{"C-cr9", "--ipv6 --ipv4=false --subnet ::/56,10.0.0.0/24 n1",
			`{"Name":"n1","Driver":"bridge","Scope":"","EnableIPv4":false,"EnableIPv6":true,"IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"::/56"},{"Subnet":"10.0.0.0/24"}]},"Internal":false,` + empty + `"Options":{},"Labels":{}}`},
		{"C-cr12", "--subnet 10.0.0.1/8 n1", // host bits are the daemon's to refuse
			`{"Name":"n1","Driver":"bridge","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.0.0.1/8"}]},"Internal":false,` + empty + `"Options":{},"Labels":{}}`},
		{"C-cr1", "--attachable --ingress --config-only --config-from c --scope swarm n1",
			`{"Name":"n1","Driver":"bridge","Scope":"swarm","IPAM":{"Driver":"default","Options":{},"Config":[]},"Internal":false,"Attachable":true,"Ingress":true,"ConfigOnly":true,"ConfigFrom":{"Network":"c"},"Options":{},"Labels":{}}`},
	} {
		d := &fakeDaemon{answers: map[string]string{"POST /networks/create": `{"Id":"` + idA + `","Warning":"careful"}`}}
		got := d.ask(t, "", append([]string{"network", "create"}, strings.Fields(row.args)...)...)
		if got.code != 0 || got.out != idA+"\n" || got.stderr != "WARNING: careful\n" {
			t.Errorf("%s: %+v", row.id, got)
		}
		if len(d.asked) != 1 || strings.TrimPrefix(d.asked[0], "POST /networks/create ") != row.want {
			t.Errorf("%s: asked %s\n want %s", row.id, d.asked, row.want)
		}
	}
	d := &fakeDaemon{answers: map[string]string{"POST /networks/create": "409 network with name n1 already exists"}}
	if got := d.ask(t, "", "network", "create", "n1"); got.code != 1 || got.stderr != "Error response from daemon: network with name n1 already exists\n" {
		t.Errorf("C-cr1: %+v", got)
	}
}

// The checks of docker network create that ask nobody.
func TestNetworkCreateRefuses(t *testing.T) {
	for _, row := range []struct {
		id, args, want string
	}{
		{"C-cr6", "--ip-range 10.0.0.0/24 n", "every ip-range or gateway must have a corresponding subnet"},
		{"C-cr4", "--gateway 10.0.0.1 n", "every ip-range or gateway must have a corresponding subnet"},
		{"C-cr12", "--subnet 10.0.0.0/16 --subnet 10.0.1.0/24 n", "multiple overlapping subnet configuration is not supported"},
		{"C-cr12", "--subnet 10.0.0.0/33 n", "invalid CIDR address: 10.0.0.0/33"},
		{"C-cr4", "--subnet 10.0.0.0/16 --gateway 10.1.0.1 n", "no matching subnet for gateway 10.1.0.1"},
		{"C-cr4", "--subnet 10.0.0.0/16 --gateway x n", "no matching subnet for gateway x"},
		{"C-cr6", "--subnet 10.0.0.0/16 --ip-range 10.1.0.0/24 n", "no matching subnet for range 10.1.0.0/24"},
		{"C-cr2", "--subnet 10.0.0.0/16 --aux-address a=10.1.0.1 n", "no matching subnet for aux-address 10.1.0.1"},
		{"C-cr6", "--subnet 10.0.0.0/16 --subnet fd00::/64 --ip-range 10.0.1.0/24 --ip-range 10.0.2.0/24 n",
			"cannot configure multiple ranges (10.0.2.0/24, 10.0.1.0/24) on the same subnet (10.0.0.0/16)"},
		{"C-cr4", "--subnet 10.0.0.0/16 --subnet fd00::/64 --gateway 10.0.0.1 --gateway 10.0.0.2 n",
			"cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/16)"},
	} {
		d := &fakeDaemon{}
		got := d.ask(t, "", append([]string{"network", "create"}, strings.Fields(row.args)...)...)
		if got.code != 1 || got.stderr != row.want+"\n" || got.out != "" || d.asked != nil {
			t.Errorf("%s: %s: %+v, asked %q", row.id, row.args, got, d.asked)
		}
	}
}

// C-rm1: what is removed is named, what is not is told of, and the rest goes on.
func TestNetworkRemove(t *testing.T) {
	d := &fakeDaemon{answers: map[string]string{
		"GET /networks/n1": `{"Name":"n1"}`, "DELETE /networks/n1": "",
		"GET /networks/used": `{"Name":"used"}`, "DELETE /networks/used": `403 error while removing network: network used has active endpoints (name:"c1" id:"abcdef012345")`,
		"GET /networks/ingress": `{"Name":"ingress","Ingress":true}`, "DELETE /networks/ingress": "",
	}}
	got := d.ask(t, "", "network", "rm", "used", "gone", "n1")
	want := outcome{1, "n1\n", "Error response from daemon: error while removing network: network used has active endpoints (name:\"c1\" id:\"abcdef012345\")\n" +
		"Error response from daemon: network gone not found\nexit status 1\n"}
	if got != want {
		t.Errorf("got %+v", got)
	}
	if got := d.ask(t, "", "network", "remove", "-f", "gone", "n1"); got != (outcome{0, "n1\n", ""}) {
		t.Errorf("--force: %+v", got)
	}
	for input, gone := range map[string]bool{"y\n": true, "YES\n": true, "n\n": false, "": false, "\n": false} {
		d.asked = nil
		got := d.ask(t, input, "network", "rm", "ingress")
		if got.code != 0 || !strings.HasPrefix(got.out, ingressWarning+" [y/N] ") || strings.HasSuffix(got.out, "ingress\n") != gone || (len(d.asked) == 2) != gone {
			t.Errorf("answer %q: %+v, asked %q", input, got, d.asked)
		}
	}
}

// C-in1, C-in2
func TestNetworkInspect(t *testing.T) {
	const n1 = `{"Name":"n1","Id":"` + idA + `","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"172.18.0.0/16","Gateway":"172.18.0.1"}]},"Containers":{"c":{"Name":"c1"}}}`
	for _, row := range []struct {
		args []string
		want outcome
	}{
		{[]string{"x"}, outcome{1, "[]\n", "Error response from daemon: network x not found\n"}},
		{[]string{"x", "-f", "{{.Name}}"}, outcome{1, "\n", "Error response from daemon: network x not found\n"}},
		{[]string{"x", "n1", "-f", "{{.Name}}"}, outcome{1, "n1\n", "Error response from daemon: network x not found\n"}},
		{[]string{"n1", "-f", "{{.Id}} {{.ID}}"}, outcome{1, "\n", ""}},
		{[]string{"n1", "-f", "{{.Id}}"}, outcome{0, idA + "\n", ""}},
		{[]string{"n1", "-f", "{{.ID}}"}, outcome{0, idA + "\n", ""}},
		{[]string{"n1", "n1", "-f", "{{range .IPAM.Config}}{{.Gateway}}{{end}}"}, outcome{0, "172.18.0.1\n172.18.0.1\n", ""}},
		{[]string{"n1", "--format", "json"}, outcome{0, "[" + n1 + "]\n", ""}},
		{[]string{"n1", "-f", "{{"}, outcome{1, "", "template parsing error: template: :1: unclosed action\n"}},
		{[]string{"-v", "n1", "-f", "{{.Scope}}"}, outcome{0, "local\n", ""}},
	} {
		d := &fakeDaemon{answers: map[string]string{"GET /networks/n1": n1}}
		got := d.ask(t, "", append([]string{"network", "inspect"}, row.args...)...)
		if row.want.stderr == "" && row.want.code != 0 {
			got.stderr, got.out = "", row.want.out // the wording is text/template's
		}
		if got != row.want {
			t.Errorf("%q: got %+v, want %+v", row.args, got, row.want)
		}
	}
	d := &fakeDaemon{answers: map[string]string{"GET /networks/n1": n1}}
	got := d.ask(t, "", "network", "inspect", "n1")
	if !strings.HasPrefix(got.out, "[\n    {\n        \"Name\": \"n1\",\n        \"Id\": \"aaaa") || !strings.HasSuffix(got.out, "\n    }\n]\n") {
		t.Errorf("indented: %s", got.out)
	}
}

// C-pr1
func TestNetworkPrune(t *testing.T) {
	d := &fakeDaemon{answers: map[string]string{"POST /networks/prune": `{"NetworksDeleted":["n1","n2"]}`}}
	if got := d.ask(t, "y\n", "network", "prune"); got != (outcome{0, pruneWarning + " [y/N] Deleted Networks:\nn1\nn2\n\n", ""}) {
		t.Errorf("%+v", got)
	}
	d.asked = nil
	if got := d.ask(t, "n\n", "network", "prune"); got.code != 0 || d.asked != nil {
		t.Errorf("said no: %+v, asked %q", got, d.asked)
	}
	if got := d.ask(t, "", "network", "prune", "-f", "--filter", "until=24h", "--filter", "label!=keep"); got != (outcome{0, "Deleted Networks:\nn1\nn2\n\n", ""}) {
		t.Errorf("--force: %+v", got)
	}
	if want := "POST /networks/prune?filters=%7B%22label%21%22%3A%7B%22keep%22%3Atrue%7D%2C%22until%22%3A%7B%2224h%22%3Atrue%7D%7D"; len(d.asked) != 1 || d.asked[0] != want {
		t.Errorf("asked %q", d.asked)
	}
	d.answers["POST /networks/prune"] = `{"NetworksDeleted":[]}`
	if got := d.ask(t, "", "network", "prune", "-f"); got != (outcome{}) {
		t.Errorf("nothing: %+v", got)
	}
	d.answers["POST /networks/prune"] = `409 a prune operation is already running`
	if got := d.ask(t, "", "network", "prune", "-f"); got != (outcome{1, "", "Error response from daemon: a prune operation is already running\n"}) {
		t.Errorf("%+v", got)
	}
}

// C-co1 to C-co6, C-di1, C-di2
func TestNetworkConnect(t *testing.T) {
	d := &fakeDaemon{answers: map[string]string{"POST /networks/n1/connect": "", "POST /networks/n1/disconnect": ""}}
	got := d.ask(t, "", strings.Fields("network connect --alias a --alias b,c --ip 172.18.0.9 --ip6 fd00::9 --link c1:x --link-local-ip 169.254.1.1 --driver-opt k=v --gw-priority 7 n1 web")...)
	if got != (outcome{}) {
		t.Errorf("%+v", got)
	}
	var r struct {
		Container      string
		EndpointConfig struct {
			IPAMConfig struct {
				IPv4Address, IPv6Address string
				LinkLocalIPs             []string
			}
			Links, Aliases []string
			DriverOpts     map[string]string
			GwPriority     int
		}
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(d.asked[0], "POST /networks/n1/connect ")), &r); err != nil {
		t.Fatal(err)
	}
	e := r.EndpointConfig
	if r.Container != "web" || e.IPAMConfig.IPv4Address != "172.18.0.9" || e.IPAMConfig.IPv6Address != "fd00::9" ||
		!cmp.Equal(e.IPAMConfig.LinkLocalIPs, []string{"169.254.1.1"}) || !cmp.Equal(e.Links, []string{"c1:x"}) ||
		!cmp.Equal(e.Aliases, []string{"a", "b", "c"}) || e.DriverOpts["k"] != "v" || e.GwPriority != 7 {
		t.Errorf("asked %s", d.asked[0])
	}
	d.asked = nil
	if got := d.ask(t, "", "network", "disconnect", "-f", "n1", "web"); got != (outcome{}) || d.asked[0] != `POST /networks/n1/disconnect {"Container":"web","Force":true}` {
		t.Errorf("%+v, asked %q", got, d.asked)
	}
	if got := d.ask(t, "", "network", "connect", "n2", "web"); got != (outcome{1, "", "Error response from daemon: network connect not found\n"}) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"--ip fd00::1", "--ip6 1.2.3.4", "--link :x", "--link a:b:c", "--driver-opt k", "--link-local-ip x", "--gw-priority x"} {
		if got := d.ask(t, "", append(append([]string{"network", "connect"}, strings.Fields(bad)...), "n1", "web")...); got.code != 125 {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

// Docker's commands exit with 1 for wrong arguments and with 125 for wrong flags.
func TestNetworkArguments(t *testing.T) {
	for _, row := range []struct {
		args, want string
		code       int
	}{
		{"network create", "usernet network create requires 1 argument", 1},
		{"network create a b", "usernet network create requires 1 argument", 1},
		{"network rm", "usernet network rm requires at least 1 argument", 1},
		{"network connect a", "usernet network connect requires 2 arguments", 1},
		{"network ls x", "usernet network ls accepts no arguments", 1},
		{"network frob", "unknown command: usernet network frob", 1},
		{"network ls --frob", "unknown flag: --frob", 125},
	} {
		d := &fakeDaemon{}
		if got := d.ask(t, "", strings.Fields(row.args)...); got.code != row.code || !strings.Contains(got.stderr, row.want) || d.asked != nil {
			t.Errorf("%s: %+v", row.args, got)
		}
	}
}

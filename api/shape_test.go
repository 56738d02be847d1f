package api

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// get asks for JSON and returns it without types.
func get(t *testing.T, target string) any {
	t.Helper()
	w := ask(at(newFake()), "GET", target, "")
	var v any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s: %v", target, w.Code, w.Body, err)
	}
	return v
}

// field walks into JSON; what is not there is "absent".
func field(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			next, ok := m[p]
			if !ok {
				return "absent"
			}
			v = next
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return "absent"
			}
			v = l[p]
		}
	}
	return v
}

// C-in1, C-ls1: what an answer has depends on the version that the client speaks.
func TestVersions(t *testing.T) {
	const web = 2 // in the list
	empty := map[string]any{}
	for _, row := range []struct {
		target string
		path   []any
		want   any
	}{
		// Lists have no containers since 1.28.
		{"/v1.24/networks", []any{web, "Containers", id1, "Name"}, "c1"},
		{"/v1.27/networks", []any{web, "Containers", id1, "IPv6Address"}, ""},
		{"/v1.28/networks", []any{web, "Containers"}, empty},
		{"/v1.51/networks", []any{web, "Containers"}, empty},
		{"/v1.52/networks", []any{web, "Containers"}, "absent"},
		{"/networks", []any{web, "Name"}, "web"},
		{"/networks/", []any{web, "Name"}, "web"},
		// EnableIPv4 came with 1.48, Status with 1.52.
		{"/v1.47/networks", []any{web, "EnableIPv4"}, "absent"},
		{"/v1.47/networks/web", []any{"EnableIPv4"}, "absent"},
		{"/v1.47/networks/web", []any{"EnableIPv6"}, false},
		{"/v1.48/networks/web", []any{"EnableIPv4"}, true},
		{"/v1.51/networks/web", []any{"Status"}, "absent"},
		{"/v1.52/networks/web", []any{"Status", "IPAM"}, empty},
		{"/networks/web?verbose=true&scope=local", []any{"Name"}, "web"},
		{"/v1.41/networks/web", []any{"Containers", id1, "IPv4Address"}, "172.18.0.2/16"},
		{"/v1.41/networks/web", []any{"Containers", id1, "MacAddress"}, ""},
		{"/v1.41/networks/bridge", []any{"Containers"}, empty},
		{"/v1.41/networks/bridge", []any{"ConfigFrom", "Network"}, ""},
		// Short ids were aliases until 1.44, in user-defined networks.
		{"/v1.44/containers/c1/json", []any{"NetworkSettings", "Networks", "web", "Aliases"}, []any{"www", id1[:12]}},
		{"/v1.44/containers/c1/json", []any{"NetworkSettings", "Networks", "bridge", "Aliases"}, []any{"www"}},
		{"/v1.45/containers/c1/json", []any{"NetworkSettings", "Networks", "web", "Aliases"}, []any{"www"}},
		{"/v1.44/containers/json", []any{0, "NetworkSettings", "Networks", "web", "Aliases"}, []any{"www", id1[:12]}},
		// The default bridge's settings were those of the container until 1.51.
		{"/v1.41/containers/c1/json", []any{"NetworkSettings", "IPAddress"}, "172.17.0.2"},
		{"/v1.51/containers/c1/json", []any{"NetworkSettings", "Gateway"}, "172.17.0.1"},
		{"/v1.51/containers/c1/json", []any{"NetworkSettings", "MacAddress"}, "02:00:00:00:00:01"},
		{"/v1.51/containers/c1/json", []any{"NetworkSettings", "GlobalIPv6Address"}, ""},
		{"/v1.51/containers/c1/json", []any{"NetworkSettings", "SandboxKey"}, "/proc/7/ns/net"},
		{"/v1.51/containers/c1/json", []any{"NetworkSettings", "Networks", "bridge", "IPv6Gateway"}, ""},
		{"/v1.51/containers/c1/json", []any{"State", "Pid"}, 7.0},
		{"/v1.52/containers/c1/json", []any{"NetworkSettings", "IPAddress"}, "absent"},
		{"/v1.52/containers/c1/json", []any{"NetworkSettings", "Networks", "web", "IPAddress"}, "172.17.0.2"},
	} {
		if d := cmp.Diff(row.want, field(get(t, row.target), row.path...)); d != "" {
			t.Errorf("%s %v (-want +got):\n%s", row.target, row.path, d)
		}
	}
	if w := ask(at(newFake()), "GET", "/networks/web?scope=swarm", ""); w.Code != 404 {
		t.Errorf("a local network in the scope swarm: %d", w.Code)
	}
	if w := ask(at(newFake()), "GET", "/networks/web?verbose=perhaps", ""); w.Code != 400 {
		t.Errorf("verbose=perhaps: %d", w.Code)
	}
}

// C-cr, C-co: what a request says also depends on it: fields that a version did not have mean nothing.
func TestRequestVersions(t *testing.T) {
	const mac = "02:00:00:00:00:01"
	for _, row := range []struct{ target, body, want string }{
		{"/v1.53/networks/web/connect", `{"Container":"c1","EndpointConfig":{"MacAddress":"` + mac + `"}}`, `connect "web" "c1" `},
		{"/v1.54/networks/web/connect", `{"Container":"c1","EndpointConfig":{"MacAddress":"` + mac + `"}}`, `connect "web" "c1" ` + mac},
		{"/networks/web/disconnect", `{"Container":"c1","Force":true}`, `disconnect "web" "c1" true`},
		{"/networks/web/connect", `{}`, ""},
		{"/networks/web/disconnect", `{}`, ""},
		{"/containers/c1/kill", "", `kill "c1" 9`},
		{"/containers/c1/kill?signal=term", "", `kill "c1" 15`},
		{"/containers/c1/kill?signal=SIGHUP", "", `kill "c1" 1`},
		{"/containers/c1/kill?signal=64", "", `kill "c1" 64`},
		{"/containers/c1/kill?signal=65", "", ""},
		{"/containers/c1/kill?signal=-9", "", ""},
		{"/containers/c1/kill?signal=SIGWHAT", "", ""},
		{"/containers/c1/stop", "", `stop "c1" 15 10s`},
		{"/containers/c1/stop?t=3&signal=INT", "", `stop "c1" 2 3s`},
		{"/v1.41/containers/c1/stop?t=0&signal=INT", "", `stop "c1" 15 0s`},
		{"/containers/c1/stop?t=-7", "", `stop "c1" 15 -1s`},
		{"/containers/c1/stop?t=999999999999", "", `stop "c1" 15 24h0m0s`},
		{"/containers/c1/stop?t=soon", "", ""},
	} {
		b := newFake()
		w := ask(at(b), "POST", row.target, row.body)
		if b.told() != row.want || (w.Code == 400) != (row.want == "") {
			t.Errorf("%s %s: %d, told %q, want %q", row.target, row.body, w.Code, b.told(), row.want)
		}
	}
	for target, want := range map[string]string{
		"/v1.41/containers/c1?force=1": `rm "c1" true`, "/containers/c1": `rm "c1" false`, "/containers/c1?force=false&v=1": `rm "c1" false`, "/networks/web": `remove "web"`,
	} {
		b := newFake()
		if w := ask(at(b), "DELETE", target, ""); w.Code != 204 || b.told() != want {
			t.Errorf("DELETE %s: %d, told %q", target, w.Code, b.told())
		}
	}
	for target, set := range map[string]bool{"/v1.47/networks/create": false, "/v1.48/networks/create": true} {
		b := newFake()
		ask(at(b), "POST", target, `{"Name":"n","EnableIPv4":false}`)
		var r struct{ EnableIPv4 *bool }
		if err := json.Unmarshal([]byte(b.told()[len("create "):]), &r); err != nil || (r.EnableIPv4 != nil) != set {
			t.Errorf("%s: told %s, %v", target, b.told(), err)
		}
	}
}

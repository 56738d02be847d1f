package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/localhttp"
)

// Every answer says who serves; ping says it to clients of any age, with and without a version in the path.
func TestPing(t *testing.T) {
	s := at(newFake())
	for _, target := range []string{"/_ping", "/v1.24/_ping", "/v1.41/_ping", "/v1.56/_ping"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			w := ask(s, method, target, "")
			for k, want := range map[string]string{
				"Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false", "Builder-Version": "2", "Swarm": "inactive",
				"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Content-Type": "text/plain; charset=utf-8",
				"Server": "Docker/1.2.3 (linux)",
			} {
				if got := w.Header().Get(k); got != want {
					t.Errorf("%s %s: %s is %q, want %q", method, target, k, got, want)
				}
			}
			body := map[string]string{http.MethodGet: "OK", http.MethodHead: ""}[method]
			if w.Code != http.StatusOK || w.Body.String() != body {
				t.Errorf("%s %s: %d %q", method, target, w.Code, w.Body)
			}
		}
	}
}

// LU-07: what is no route, no version, or no name, gets no further than here.
func TestLU07Paths(t *testing.T) {
	for _, row := range []struct {
		method, target string
		code           int
		message        string
	}{
		{"GET", "/nowhere", 404, "page not found"},
		{"GET", "/", 404, "page not found"},
		{"PUT", "/networks", 404, "page not found"},
		{"DELETE", "/networks", 404, "page not found"},
		{"GET", "/v1.20/networks", 400, "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"GET", "/v0.9/networks", 400, "client version 0.9 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"GET", "/v1.99/networks", 400, "client version 1.99 is too new. Maximum supported API version is 1.56"},
		{"GET", "/v2.0/networks", 400, "client version 2.0 is too new. Maximum supported API version is 1.56"},
		{"GET", "/v1.99999999999999999999/networks", 400, "client version 1.99999999999999999999 is too new. Maximum supported API version is 1.56"},
		{"GET", "/v1/networks", 404, "page not found"},
		{"GET", "/v1.x/networks", 404, "page not found"},
		{"GET", "/networks/../../x", 404, "page not found"},
		{"GET", "/networks/%2e%2e", 404, "page not found"},
		{"GET", "/networks/%2e%2e%2f%2e%2e%2fx", 404, "network ../../x not found"},
		{"GET", "/networks//json", 404, "page not found"},
		{"GET", "/networks/a%00b", 400, `invalid path "/networks/a\x00b": it has characters that no name has`},
		{"GET", "/networks/a%0ab", 400, `invalid path "/networks/a\nb": it has characters that no name has`},
		{"GET", "/networks/%ff", 400, `invalid path "/networks/\xff": it has characters that no name has`},
		{"GET", "/networks/" + strings.Repeat("x", 300), 404, "network " + strings.Repeat("x", 300) + " not found"},
		{"GET", "/networks/%E2%82%AC", 404, "network € not found"},
		{"GET", "/v1.41/networks/a%2fb", 404, "network a/b not found"},
		{"GET", "/containers/x/json", 404, "No such container: x"},
		{"GET", "/images/x/json", 404, "No such image: x"},
		{"GET", "/volumes/x", 404, "get x: no such volume"},
		{"GET", "/plugins/x/json", 404, `plugin "x" not found`},
		{"GET", "/services/x", 404, "service x not found"},
		{"POST", "/containers/create", 501, "usernet keeps the networks of sandboxes and does not do this; use: usernet run --network NAME -- COMMAND"},
		{"POST", "/containers/c1/pause", 501, "usernet keeps the networks of sandboxes and does not do this"},
	} {
		b := newFake()
		w := ask(at(b), row.method, row.target, "")
		checkFailure(t, row.method+" "+row.target, w.Code, w.Header(), w.Body.Bytes(), row.code, row.message)
		if b.told() != "" {
			t.Errorf("%s %s reached the backend: %s", row.method, row.target, b.told())
		}
	}
}

func checkFailure(t *testing.T, what string, code int, h http.Header, body []byte, wantCode int, want string) {
	t.Helper()
	var f localhttp.Failure
	if err := json.Unmarshal(body, &f); err != nil || code != wantCode || f.Message != want || h.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %d %q (%s, %v), want %d %q", what, code, f.Message, h.Get("Content-Type"), err, wantCode, want)
	}
}

// The kinds of errors have Docker's codes.
func TestErrorCodes(t *testing.T) {
	for kind, want := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Forbidden: 403, fault.NotFound: 404, fault.Conflict: 409, fault.Unavailable: 503,
	} {
		b := newFake()
		b.err = fault.New(kind, "text")
		w := ask(at(b), "DELETE", "/networks/web", "")
		checkFailure(t, "DELETE", w.Code, w.Header(), w.Body.Bytes(), want, "text")
	}
}

// Bodies by Docker's rules; a body that is refused reaches nobody.
func TestBodies(t *testing.T) {
	for _, row := range []struct {
		kind, body string
		code       int
		want       string // begin of the message
	}{
		{"application/json", `{"Name":"n"}`, 201, ""},
		{"application/json; charset=utf-8", `{"Name":"n","NoSuchField":[1]}`, 201, ""},
		{"application/json", `{"Name":"n"}` + "\n \n", 201, ""},
		{"", ``, 201, ""},
		{"text/plain", `{"Name":"n"}`, 400, "unsupported Content-Type header (text/plain): must be 'application/json'"},
		{"", `{"Name":"n"}`, 400, "unsupported Content-Type header (): must be 'application/json'"},
		{"a/b/c", `{}`, 400, "malformed Content-Type header (a/b/c): "},
		{"application/json", `{"Name":`, 400, "invalid JSON: unexpected EOF"},
		{"application/json", ` `, 400, "invalid JSON: got EOF while reading request body"},
		{"application/json", `{"Name":1}`, 400, "invalid JSON: "},
		{"application/json", `{"IPAM":{"Config":[{"Subnet":"10.0.0.0/33"}]}}`, 400, "invalid JSON: "},
		{"application/json", `{"Name":"n"}{}`, 400, "unexpected content after JSON"},
		{"application/json", `{"Name":"n"}x`, 400, "unexpected content after JSON"},
		{"application/json", `{"Labels":` + strings.Repeat(`{"a":`, 100000) + `1` + strings.Repeat("}", 100000) + `}`, 400, "invalid JSON: "},
	} {
		b := newFake()
		r, err := http.NewRequest("POST", "/networks/create", strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		if row.kind != "" {
			r.Header.Set("Content-Type", row.kind)
		}
		w := httptest.NewRecorder()
		at(b).ServeHTTP(w, r)
		var f localhttp.Failure
		if row.code != http.StatusCreated {
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
				t.Errorf("%.60q: %v", row.body, err)
			}
			if b.told() != "" {
				t.Errorf("%.60q reached the backend", row.body)
			}
		}
		if w.Code != row.code || !strings.HasPrefix(f.Message, row.want) {
			t.Errorf("%s %.60q: %d %q, want %d %q", row.kind, row.body, w.Code, f.Message, row.code, row.want)
		}
	}
}

// What old clients leave empty is empty, not an invalid address: the bodies of the 20.10 and 28 clients.
func TestClientBodies(t *testing.T) {
	for _, row := range []struct{ target, body string }{
		{"/v1.41/networks/create", `{"CheckDuplicate":true,"Driver":"bridge","Scope":"","EnableIPv6":false,"IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"172.28.0.0/16","IPRange":"","Gateway":"","AuxiliaryAddresses":{"h":"172.28.1.5"}}]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{},"Labels":{},"Name":"n1"}`},
		{"/v1.50/networks/create", `{"Driver":"bridge","Scope":"","IPAM":{"Driver":"default","Options":{},"Config":[]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":{},"Labels":{},"Name":"n1"}`},
		{"/v1.41/networks/web/connect", `{"Container":"c1","EndpointConfig":{"IPAMConfig":{},"Links":null,"Aliases":null,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"","DriverOpts":null}}`},
		{"/v1.50/networks/web/connect", `{"Container":"c1","EndpointConfig":{"IPAMConfig":{"IPv4Address":"","IPv6Address":"","LinkLocalIPs":[]},"Links":["c1:x"],"Aliases":["a"],"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}`},
		{"/v1.41/networks/web/disconnect", `{"Container":"c1","Force":false}`},
	} {
		b := newFake()
		if w := ask(at(b), "POST", row.target, row.body); w.Code >= 400 || b.told() == "" {
			t.Errorf("%s: %d %s", row.target, w.Code, w.Body)
		}
	}
}

// LG: version and info say what docker version and docker info print.
func TestVersionAndInfo(t *testing.T) {
	s := at(newFake())
	var v map[string]any
	if err := json.Unmarshal(ask(s, "GET", "/v1.41/version", "").Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	engine := v["Components"].([]any)[0].(map[string]any)
	if v["ApiVersion"] != "1.56" || v["MinAPIVersion"] != "1.24" || v["Version"] != "1.2.3" || engine["Name"] != "Engine" || engine["Details"].(map[string]any)["ApiVersion"] != "1.56" {
		t.Errorf("version is %v", v)
	}
	if w := ask(s, "GET", "/info", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"Name":"host"`) {
		t.Errorf("info is %d %s", w.Code, w.Body)
	}
	if w := ask(s, "GET", "/images/json", ""); w.Body.String() != "[]\n" {
		t.Errorf("images are %s", w.Body)
	}
	if w := ask(s, "GET", "/volumes", ""); w.Body.String() != `{"Volumes":[],"Warnings":null}`+"\n" {
		t.Errorf("volumes are %s", w.Body)
	}
}

// FZ-10: no path, query or body makes the server panic, answer 500, or answer an error that is not JSON; and no
// name that is none gets to the backend.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1.41/networks", `{"label":{"a=b":true},"name":{"^w":true}}`, "")
	f.Add("GET", "/networks/../../x", "", "")
	f.Add("GET", "/v1.41/networks/%2e%2e", "", "")
	f.Add("GET", "/containers/json", `{"status":["running"],"publish":["80-90/tcp"]}`, "")
	f.Add("POST", "/v1.50/networks/create", "", `{"Name":"n1","IPAM":{"Config":[{"Subnet":"172.28.0.0/16","AuxiliaryAddresses":{"h":"172.28.1.5"}}]}}`)
	f.Add("POST", "/networks/web/connect", "", `{"Container":"c1","EndpointConfig":{"IPAMConfig":{"IPv4Address":"1.2.3.4"},"MacAddress":"02:00:00:00:00:01"}}`)
	f.Add("POST", "/networks/web/disconnect", "", `{"Container":"c1","Force":true}`)
	f.Add("POST", "/networks/prune", `{"until":{"10m":true},"label!":{"keep":true}}`, "")
	f.Add("GET", "/v1.24/containers/c1/json", "", "")
	f.Add("POST", "/containers/c1/stop", "", "")
	f.Fuzz(func(t *testing.T, method, path, filters, body string) {
		u, err := url.Parse("http://docker" + path)
		if err != nil || u.Host != "docker" || strings.HasSuffix(u.Path, "/events") {
			return // the client would not send it; events do not end
		}
		u.RawQuery = url.Values{"filters": {filters}, "t": {filters}, "signal": {filters}, "limit": {body}}.Encode()
		r, err := http.NewRequest(method, u.String(), strings.NewReader(body))
		if err != nil {
			return
		}
		r.Header.Set("Content-Type", "application/json")
		b := newFake()
		w := httptest.NewRecorder()
		at(b).ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s: %s", method, u, w.Body)
		}
		if w.Code >= http.StatusBadRequest {
			var f localhttp.Failure
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || f.Message == "" {
				t.Errorf("%s %s: %d %q: %v", method, u, w.Code, w.Body, err)
			}
		}
		for _, c := range b.calls {
			if strings.HasPrefix(c, `remove "."`) || strings.HasPrefix(c, `remove ".."`) || strings.HasPrefix(c, `remove ""`) {
				t.Errorf("%s %s: %s", method, u, c)
			}
		}
	})
}

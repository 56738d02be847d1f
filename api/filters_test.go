package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/internal/localhttp"
)

// names asks for a list and returns what the key of each element is.
func names(t *testing.T, s http.Handler, method, target, filters, key string) (code int, got []string, message string) {
	t.Helper()
	if filters != "" {
		sep := "?"
		if strings.Contains(target, "?") {
			sep = "&"
		}
		target += sep + "filters=" + url.QueryEscape(filters)
	}
	w := ask(s, method, target, "")
	if w.Code >= http.StatusBadRequest {
		var f localhttp.Failure
		if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
			t.Fatal(err)
		}
		return w.Code, nil, f.Message
	}
	var list []map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	for _, e := range list {
		if v, ok := e[key].([]any); ok {
			got = append(got, v[0].(string))
			continue
		}
		got = append(got, e[key].(string))
	}
	return w.Code, got, ""
}

// C-ls1, C-ls2: the filters of network ls, both encodings, alone and together.
func TestNetworkFilters(t *testing.T) {
	all := []string{"bridge", "none", "web", "web2"}
	for _, row := range []struct {
		filters string
		want    []string
		err     string
	}{
		{"", all, ""},
		{"{}", all, ""},
		{`{"name":{"web":true}}`, []string{"web", "web2"}, ""},
		{`{"name":["web"]}`, []string{"web", "web2"}, ""},
		{`{"name":{"^web$":true}}`, []string{"web"}, ""},
		{`{"name":{"^n":true,"2$":true}}`, []string{"none", "web2"}, ""},
		{`{"name":{"[":true}}`, nil, ""}, // no expression: only itself
		{`{"name":{}}`, all, ""},
		{`{"id":{"b3b3":true}}`, []string{"web"}, ""},
		{`{"id":{"^a":true}}`, []string{"bridge", "none"}, ""},
		{`{"driver":{"bridge":true}}`, []string{"bridge", "web"}, ""},
		{`{"driver":{"bri":true}}`, nil, ""},
		{`{"driver":{"null":true,"overlay":true}}`, []string{"none", "web2"}, ""},
		{`{"scope":{"swarm":true}}`, []string{"web2"}, ""},
		{`{"label":{"a":true}}`, []string{"web", "web2"}, ""},
		{`{"label":{"a=1":true}}`, []string{"web"}, ""},
		{`{"label":{"a":true,"b":true}}`, []string{"web"}, ""},
		{`{"label":{"b=":true}}`, []string{"web"}, ""},
		{`{"type":{"builtin":true}}`, []string{"bridge", "none"}, ""},
		{`{"type":{"custom":true}}`, []string{"web", "web2"}, ""},
		{`{"dangling":{"true":true}}`, []string{"web2"}, ""},
		{`{"dangling":{"0":true}}`, []string{"bridge", "none", "web"}, ""},
		{`{"dangling":{"1":true},"label":{"a=1":true}}`, nil, ""},
		{`{"type":{"q":true}}`, nil, "invalid filter: 'type'='q'"},
		{`{"x":{"y":true}}`, nil, "invalid filter 'x'"},
		{`{"dangling":{"maybe":true}}`, nil, `invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`},
		{`{"dangling":{"0":true,"1":true}}`, nil, `got more than one value for filter key "dangling"`},
		{`{"name":1}`, nil, "invalid filter: json: cannot unmarshal number into Go value of type map[string]bool"},
		{`]`, nil, "invalid filter: invalid character ']' looking for beginning of value"},
	} {
		code, got, message := names(t, at(newFake()), "GET", "/v1.41/networks", row.filters, "Name")
		if message != row.err && !(row.err != "" && strings.HasPrefix(message, "invalid filter: json:") && strings.HasPrefix(row.err, "invalid filter: json:")) {
			t.Errorf("%s: error %q, want %q", row.filters, message, row.err)
		}
		if wantCode := map[bool]int{true: 200, false: 400}[row.err == ""]; code != wantCode || !slices.Equal(got, row.want) {
			t.Errorf("%s: %d %v, want %v", row.filters, code, got, row.want)
		}
	}
}

// C-pr1: the filters of prune. Which networks are in use is not theirs to say.
func TestPruneFilters(t *testing.T) {
	for _, row := range []struct {
		filters string
		want    []string
		err     string
	}{
		{"", []string{"bridge", "none", "web", "web2"}, ""},
		{`{"label":{"a=1":true}}`, []string{"web"}, ""},
		{`{"label!":{"a":true}}`, []string{"bridge", "none"}, ""},
		{`{"label!":{"a=1":true}}`, []string{"bridge", "none", "web2"}, ""},
		{`{"until":{"90m":true}}`, []string{"bridge", "none", "web"}, ""}, // now is 15:00
		{`{"until":{"2026-03-01T13:00:00Z":true}}`, []string{"bridge", "none", "web"}, ""},
		{`{"until":{"1772366400":true}}`, []string{"bridge", "none"}, ""}, // 12:00
		{`{"until":{"2026-03-01T13:00:00Z":true},"label":{"a":true}}`, []string{"web"}, ""},
		{`{"until":{"1h":true,"2h":true}}`, nil, "more than one until filter specified"},
		{`{"until":{"soon":true}}`, nil, "invalid filter 'until=soon': want seconds since 1970, a date of RFC 3339, or a duration such as 10m"},
		{`{"dangling":{"true":true}}`, nil, "invalid filter 'dangling'"},
	} {
		w := ask(at(newFake()), "POST", "/networks/prune?filters="+url.QueryEscape(row.filters), "")
		var got struct {
			NetworksDeleted []string
			Message         string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.NetworksDeleted, row.want) || got.Message != row.err {
			t.Errorf("%s: %v %q, want %v %q", row.filters, got.NetworksDeleted, got.Message, row.want, row.err)
		}
	}
}

func TestContainerFilters(t *testing.T) {
	c1, both := []string{"/c1"}, []string{"/c1", "/other"}
	for _, row := range []struct {
		query, filters string
		want           []string
		err            string
	}{
		{"", "", both, ""},
		{"?all=1", "", []string{"/c1", "/other", "/soon"}, ""},
		{"?all=0", "", both, ""},
		{"?limit=1", "", c1, ""},
		{"?limit=-1", "", both, ""},
		{"?limit=x", "", nil, "invalid value for limit: x"},
		{"", `{"name":{"c1":true}}`, c1, ""},
		{"", `{"name":{"^/c1$":true}}`, c1, ""},
		{"", `{"name":{"^c1$":true}}`, c1, ""},
		{"", `{"id":{"c1c1":true}}`, c1, ""},
		{"", `{"status":{"created":true}}`, []string{"/soon"}, ""},
		{"", `{"status":{"exited":true}}`, nil, ""},
		{"", `{"status":{"asleep":true}}`, nil, "invalid filter 'status=asleep'"},
		{"", `{"label":{"l=v":true}}`, c1, ""},
		{"", `{"network":{"web":true}}`, c1, ""},
		{"", `{"network":{"b3b3":true}}`, c1, ""},
		{"", `{"network":{"other":true}}`, nil, ""},
		{"", `{"publish":{"8000-8100":true}}`, c1, ""},
		{"", `{"publish":{"80":true}}`, nil, ""},
		{"", `{"expose":{"53/udp":true}}`, c1, ""},
		{"", `{"expose":{"53":true}}`, nil, ""},
		{"", `{"expose":{"x":true}}`, nil, "invalid filter: invalid start port 'x': invalid syntax"},
		{"", `{"ancestor":{"alpine":true}}`, nil, ""},
		{"", `{"health":{"healthy":true}}`, nil, ""},
		{"", `{"is-task":{"false":true}}`, both, ""},
		{"", `{"is-task":{"true":true}}`, nil, ""},
		{"", `{"before":{"c1":true}}`, nil, "invalid filter 'before': it is not served"},
		{"", `{"what":{"c1":true}}`, nil, "invalid filter 'what'"},
	} {
		_, got, message := names(t, at(newFake()), "GET", "/containers/json"+row.query, row.filters, "Names")
		if !slices.Equal(got, row.want) || message != row.err {
			t.Errorf("%s %s: %v %q, want %v %q", row.query, row.filters, got, message, row.want, row.err)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 1, 15, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"10m": "2026-03-01T14:50:00Z", "1h30m": "2026-03-01T13:30:00Z", "1772366400": "2026-03-01T12:00:00Z",
		"1772366400.5": "2026-03-01T12:00:00.5Z", "1772366400.000000001": "2026-03-01T12:00:00.000000001Z", "0": "1970-01-01T00:00:00Z",
		"2026-03-01T12:00:00.123456789+02:00": "2026-03-01T10:00:00.123456789Z", "2026-03-01T12:00:00": "2026-03-01T12:00:00Z",
		"2026-03-01T12:00": "2026-03-01T12:00:00Z", "2026-03-01": "2026-03-01T00:00:00Z",
		"": "", "x": "", "1.x": "", "1.0000000000": "", "1.-5": "", "9999999999999999999": "",
	} {
		got, err := parseTime(in, now)
		text := got.UTC().Format(time.RFC3339Nano)
		if err != nil {
			text = ""
		}
		if text != want {
			t.Errorf("%q is %s, want %s", in, text, want)
		}
	}
}

// FZ-10: filters are read, or refused; what is read and written again is the same.
func FuzzFilters(f *testing.F) {
	f.Add(`{"label":{"a":true,"b=c":false}}`)
	f.Add(`{"label":["a","b","a"]}`)
	f.Add(`{"dangling":{"1":true}}`)
	f.Add(`{"name":{"(a*)*$":true},"until":{"1.5":true}}`)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := ParseFilters(in)
		if err != nil || got == nil {
			return
		}
		sets := map[string]map[string]bool{}
		for k, vs := range got {
			sets[k] = map[string]bool{}
			for _, v := range vs {
				sets[k][v] = true
			}
		}
		b, err := json.Marshal(sets)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseFilters(string(b))
		if d := cmp.Diff(got, again); d != "" || err != nil {
			t.Errorf("(-first +again):\n%s%v", d, err)
		}
		for _, n := range newFake().networks {
			if match, err := got.network(); err == nil {
				match(n)
			}
			if match, err := got.prune(epoch); err == nil {
				match(n)
			}
		}
		if match, err := got.container(); err == nil {
			match(newFake().containers[0])
		}
	})
}

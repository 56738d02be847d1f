package api

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
)

func event(typ, action, id, name string, at time.Duration) events.Message {
	when := epoch.Add(at)
	return events.Message{
		Type: events.Type(typ), Action: events.Action(action), Scope: "local", Time: when.Unix(), TimeNano: when.UnixNano(),
		Actor: events.Actor{ID: id, Attributes: map[string]string{"name": name, "k": "v"}},
	}
}

// LG: docker events, its filters, and the past as far as it is kept.
func TestEvents(t *testing.T) {
	past := []events.Message{
		event("network", "create", idWeb, "web", time.Hour), event("container", "start", id1, "c1", 2*time.Hour),
		event("network", "connect", idWeb, "web", 170*time.Minute),
	}
	for _, row := range []struct {
		query, filters string
		want           string // actions, the live one is "destroy" of container c1
		code           int
	}{
		{"", "", "destroy", 200},
		{"since=0", "", "create start connect destroy", 200},
		{"since=30m", "", "connect destroy", 200}, // now is three hours after the epoch
		{"since=30m&until=0s", "", "connect", 200},
		{"until=2026-03-01T13:00:00Z", "", "create", 200},
		{"since=0", `{"type":{"network":true}}`, "create connect", 200},
		{"since=0", `{"event":{"start":true,"connect":true}}`, "start connect", 200},
		{"since=0", `{"network":{"web":true}}`, "create connect", 200},
		{"since=0", `{"network":{"b3b3":true}}`, "create connect", 200},
		{"since=0", `{"container":{"c1":true}}`, "start destroy", 200},
		{"since=0", `{"container":{"c2":true}}`, "", 200},
		{"since=0", `{"label":{"k=v":true}}`, "create start connect", 200},
		{"since=0", `{"scope":{"swarm":true}}`, "", 200},
		{"since=0", `{"what":{"x":true}}`, "", 400},
		{"since=x", "", "", 400},
		{"until=x", "", "", 400},
		{"since=1m&until=2m", "", "", 400},
	} {
		b := newFake()
		b.past = past
		b.live <- events.Message{Type: "container", Action: "destroy", Scope: "local", Actor: events.Actor{ID: id1, Attributes: map[string]string{"name": "c1"}}}
		close(b.live)
		if strings.Contains(row.query, "until") {
			b.live = nil // the end of time is what ends it
		}
		w := ask(at(b), "GET", "/events?"+row.query+"&filters="+url.QueryEscape(row.filters), "")
		var got []string
		for dec := json.NewDecoder(w.Body); w.Code == 200 && dec.More(); {
			var m events.Message
			if err := dec.Decode(&m); err != nil {
				t.Fatal(err)
			}
			got = append(got, string(m.Action))
		}
		if strings.Join(got, " ") != row.want || w.Code != row.code || b.cancelled != (row.code == 200) {
			t.Errorf("%s %s: %d %v cancelled %v, want %q", row.query, row.filters, w.Code, got, b.cancelled, row.want)
		}
	}
}

// Events of containers had other names for their fields until 1.51.
func TestEventVersions(t *testing.T) {
	for target, want := range map[string]any{"/v1.41/events": "start", "/v1.52/events": "absent"} {
		b := newFake()
		b.live <- event("container", "start", id1, "c1", 0)
		close(b.live)
		var v any
		if err := json.Unmarshal(ask(at(b), "GET", target, "").Body.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]any{want, "start", id1}, []any{field(v, "status"), field(v, "Action"), field(v, "Actor", "ID")}); d != "" {
			t.Errorf("%s (-want +got):\n%s", target, d)
		}
	}
}

// Events flow as they happen and end with the client.
func TestEventsEndWithClient(t *testing.T) {
	b := newFake()
	s := httptest.NewServer(at(b))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(r) // returns before there is any event
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b.live <- event("network", "create", idWeb, "web", 0)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"Action":"create"`) {
		t.Errorf("read %q, %v", line, err)
	}
	cancel()
	s.Close() // waits for the request
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.cancelled {
		t.Error("the subscription outlives its client")
	}
}

// FT-14: a client that goes away mid-call ends the call's context, and leaves the server as it was.
func TestFT14ClientGone(t *testing.T) {
	b := newFake()
	b.hold = make(chan struct{})
	s := httptest.NewServer(at(b))
	for i := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), []time.Duration{time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond}[i%3])
		r, err := http.NewRequestWithContext(ctx, "DELETE", s.URL+"/networks/web", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := s.Client().Do(r); err == nil {
			resp.Body.Close()
			t.Errorf("an answer: %s", resp.Status)
		}
		cancel()
	}
	resp, err := s.Client().Get(s.URL + "/networks")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("after: %v, %v", resp, err)
	}
	resp.Body.Close()
	s.Close() // waits for all calls, which nothing but their contexts ends
	if b.told() == "" {
		t.Error("no call reached the backend")
	}
}

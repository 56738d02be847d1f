package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// serve has h answer on a socket and returns a Client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	c := New(socket)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

// Each method asks what Docker's client asks.
func TestRequests(t *testing.T) {
	var got, reply string
	code := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body) // none is nothing
		got = strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.EscapedPath(), " ", r.URL.Query().Encode(), " ", string(body)))
		w.WriteHeader(code)
		fmt.Fprint(w, reply)
	})
	ctx := t.Context()
	for _, row := range []struct {
		id    string
		want  string
		code  int
		reply string
		do    func() (string, error)
	}{
		{"C-ls1", "GET /networks", 200, `[{"Name":"a"},{"Name":"b"}]`, func() (string, error) {
			l, err := c.NetworkList(ctx, nil)
			return fmt.Sprint(len(l)), err
		}},
		{"C-ls2", "GET /networks filters=%7B%22name%22%3A%7B%22x%22%3Atrue%2C%22y%22%3Atrue%7D%7D", 200, `[]`, func() (string, error) {
			l, err := c.NetworkList(ctx, Filters{"name": {"x", "y"}})
			return fmt.Sprint(len(l)), err
		}},
		{"C-in1", "GET /networks/a%2F..%20%C3%A9 verbose=true", 200, `{"Name":"n","X":1}`, func() (string, error) {
			n, raw, err := c.NetworkInspect(ctx, "a/.. é", true)
			return n.Name + " " + string(raw), err
		}},
		{"C-cr1", `POST /networks/create  {"Name":"n","Driver":"","Scope":"","IPAM":null,"Internal":false,"Attachable":false,"Ingress":false,"ConfigOnly":false,"ConfigFrom":null,"Options":null,"Labels":null}`, 201, `{"Id":"i","Warning":"w"}`, func() (string, error) {
			r, err := c.NetworkCreate(ctx, network.CreateRequest{Name: "n"})
			return r.ID + r.Warning, err
		}},
		{"C-rm1", "DELETE /networks/n", 204, "", func() (string, error) { return "", c.NetworkRemove(ctx, "n") }},
		{"C-co1", `POST /networks/n/connect  {"Container":"c"}`, 200, "", func() (string, error) {
			return "", c.NetworkConnect(ctx, "n", network.ConnectRequest{Container: "c"})
		}},
		{"C-di2", `POST /networks/n/disconnect  {"Container":"c","Force":true}`, 200, "", func() (string, error) {
			return "", c.NetworkDisconnect(ctx, "n", network.DisconnectRequest{Container: "c", Force: true})
		}},
		{"C-pr1", "POST /networks/prune filters=%7B%22until%22%3A%7B%221h%22%3Atrue%7D%7D", 200, `{"NetworksDeleted":["n"]}`, func() (string, error) {
			r, err := c.NetworkPrune(ctx, Filters{"until": {"1h"}})
			return fmt.Sprint(r.NetworksDeleted), err
		}},
		{"", "GET /containers/json", 200, `[{"Id":"i"}]`, func() (string, error) {
			l, err := c.ContainerList(ctx, nil)
			return fmt.Sprint(len(l)), err
		}},
		{"MN2", "GET /containers/c/json", 200, `{"State":{"Pid":7}}`, func() (string, error) {
			i, _, err := c.ContainerInspect(ctx, "c")
			return fmt.Sprint(i.State.Pid), err
		}},
		{"", "POST /containers/c/kill signal=HUP", 204, "", func() (string, error) { return "", c.ContainerKill(ctx, "c", "HUP") }},
		{"", "POST /containers/c/stop t=5", 204, "", func() (string, error) { return "", c.ContainerStop(ctx, "c", 5*time.Second) }},
		{"", "DELETE /containers/c force=1", 204, "", func() (string, error) { return "", c.ContainerRemove(ctx, "c", true) }},
		{"", "GET /_ping", 200, "OK", func() (string, error) { return "", c.Ping(ctx) }},
		{"", "GET /version", 200, `{"Version":"1"}`, func() (string, error) {
			v, err := c.Version(ctx)
			return v.Version, err
		}},
		{"", "GET /info", 200, `{"Name":"h"}`, func() (string, error) {
			i, err := c.Info(ctx)
			return i.Name, err
		}},
	} {
		got, code, reply = "", row.code, row.reply
		answer, err := row.do()
		if got != row.want || err != nil {
			t.Errorf("%s asked %q (%s, %v), want %q", row.id, got, answer, err, row.want)
		}
	}
}

func TestErrors(t *testing.T) {
	reply := ""
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if strings.HasPrefix(reply, "200") {
			fmt.Fprint(w, reply[3:])
			return
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, reply)
	})
	for in, want := range map[string]string{
		`{"message":"network x not found"}`: "network x not found",
		`<html>`:                            "404 Not Found",
	} {
		reply = in
		err := c.NetworkRemove(t.Context(), "x")
		e, ok := errors.AsType[*Error](err)
		if !ok || e.StatusCode() != 404 || !IsNotFound(err) || err.Error() != want {
			t.Errorf("%s: %v", in, err)
		}
	}
	reply = "200[{"
	if _, err := c.NetworkList(t.Context(), nil); err == nil || IsNotFound(err) {
		t.Errorf("half an answer: %v", err)
	}
	if _, _, err := c.NetworkInspect(t.Context(), "", false); err == nil {
		t.Error("an empty name was asked for")
	}
	nobody := New(filepath.Join(t.TempDir(), "s"))
	if err := nobody.Ping(t.Context()); !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), `start one with "usernet daemon"`) {
		t.Errorf("without a daemon: %v", err)
	}
}

func TestEvents(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("since") == "x" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"message":"invalid value for since"}`)
			return
		}
		fmt.Fprint(w, `{"Type":"network","Action":"create"}`+"\n"+`{"Type":"network","Action":"destroy"}`+"\n")
	})
	collect := func(o EventsOptions, most int) (got []string) {
		for m, err := range c.Events(t.Context(), o) {
			if err != nil {
				return append(got, err.Error())
			}
			if got = append(got, string(m.Action)); len(got) == most {
				return got
			}
		}
		return got
	}
	if d := cmp.Diff([]string{string(events.ActionCreate), string(events.ActionDestroy)}, collect(EventsOptions{Until: "0s"}, 9)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"create"}, collect(EventsOptions{}, 1)); d != "" {
		t.Errorf("one only (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"invalid value for since"}, collect(EventsOptions{Since: "x"}, 9)); d != "" {
		t.Errorf("refused (-want +got):\n%s", d)
	}
}

package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/usernet/usernet/cnm/fault"
)

// eventFilters are what `events` can ask. The keys of objects match an event about such an object, by its id or name
// or the beginning of one.
var (
	eventObjects = []string{"config", "container", "daemon", "image", "network", "node", "plugin", "secret", "service", "volume"}
	eventFilters = append([]string{"event", "label", "scope", "type"}, eventObjects...)
)

// event reports whether the filters let an event through.
func (f Filters) event(m events.Message) bool {
	if !f.exact("type", string(m.Type)) || !f.exact("scope", m.Scope) || !f.labels("label", m.Actor.Attributes) {
		return false
	}
	// An action such as "exec_start: sh" is asked for by what stands before the colon.
	action, _, _ := strings.Cut(string(m.Action), ":")
	if !f.exact("event", string(m.Action)) && !f.exact("event", action) {
		return false
	}
	for _, k := range eventObjects {
		if len(f[k]) == 0 {
			continue
		}
		about := string(m.Type) == k && (f.prefix(k, m.Actor.ID) || f.prefix(k, m.Actor.Attributes["name"]))
		if !about {
			return false
		}
	}
	return true
}

// events streams events as JSON objects, those of the past that the client asks for first, until the client
// goes, its end of time has come, or it is too slow.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r, eventFilters...)
	if err != nil {
		return err
	}
	since, until, err := s.period(r)
	if err != nil {
		return err
	}
	past, live, cancel := s.b.Events()
	defer cancel()
	var end <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(until.Sub(s.now()))
		defer t.Stop()
		end = t.C
	}
	out := eventWriter{w: w, v: versionOf(r.Context()), f: f}
	w.Header().Set("Content-Type", typeJSON)
	w.WriteHeader(http.StatusOK)
	if out.flush() != nil {
		return nil
	}
	if !since.IsZero() || !until.IsZero() {
		for _, m := range past {
			at := time.Unix(0, m.TimeNano)
			if !at.Before(since) && (until.IsZero() || !at.After(until)) && out.write(m) != nil {
				return nil
			}
		}
	}
	for {
		select {
		case m, ok := <-live:
			if !ok || out.write(m) != nil {
				return nil
			}
		case <-end:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// period reads since and until.
func (s *server) period(r *http.Request) (since, until time.Time, err error) {
	q := r.URL.Query()
	for k, into := range map[string]*time.Time{"since": &since, "until": &until} {
		if q.Get(k) == "" {
			continue
		}
		if *into, err = parseTime(q.Get(k), s.now()); err != nil {
			return since, until, fault.New(fault.Invalid, "invalid value for %s: %w", k, err)
		}
	}
	if !until.IsZero() && until.Before(since) {
		return since, until, fault.New(fault.Invalid, "`since` time (%d) cannot be after `until` time (%d)", since.Unix(), until.Unix())
	}
	return since, until, nil
}

// eventWriter writes one client's events.
type eventWriter struct {
	w http.ResponseWriter
	v Version
	f Filters
}

// write sends an event at once; an error means that the client has gone.
func (e eventWriter) write(m events.Message) error {
	if !e.f.event(m) {
		return nil
	}
	b, err := json.Marshal(e.v.event(m))
	if err != nil {
		return err
	}
	if _, err := e.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return e.flush()
}

func (e eventWriter) flush() error { return http.NewResponseController(e.w).Flush() }

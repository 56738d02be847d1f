package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"syscall"

	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/localhttp"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// Sandbox is what stands behind the socket; a control.Control is one.
type Sandbox interface {
	Ports() []portfwd.Spec
	Publish(specs []portfwd.Spec) ([]portfwd.Spec, error)
	Unpublish(specs []portfwd.Spec) error
	Stats(ctx context.Context) (spec.Stats, error)
	Status() control.Status
}

// Live is an Entry with what changes.
type Live struct {
	Entry
	// State is the control's: starting, running, restarting, failed, closed.
	State string `json:"state"`
	// DatapathPID is the packet process's, 0 when there is none, and Restarts how many there were before.
	DatapathPID int `json:"datapath_pid,omitempty"`
	Restarts    int `json:"restarts"`
	// Weakened are the layers of the datapath's isolation that this host lacks.
	Weakened []string       `json:"weakened,omitempty"`
	Ports    []portfwd.Spec `json:"ports,omitempty"`
}

// ports is the body of every request and answer about ports.
type ports struct {
	Ports []portfwd.Spec `json:"ports"`
}

// end is the body of a request to end a sandbox.
type end struct {
	Signal int `json:"signal"`
}

type api struct {
	entry  Entry
	s      Sandbox
	signal func(syscall.Signal) error // nil where nobody listens
}

func newServer(a *api, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sandbox", a.sandbox)
	mux.HandleFunc("GET /v1/stats", a.stats)
	mux.HandleFunc("GET /v1/ports", a.listPorts)
	mux.HandleFunc("POST /v1/ports", a.addPorts)
	mux.HandleFunc("DELETE /v1/ports", a.removePorts)
	mux.HandleFunc("POST /v1/end", a.end)
	return localhttp.NewServer(mux, func(w http.ResponseWriter, _ *http.Request) {
		localhttp.Refuse(w, http.StatusForbidden, "this sandbox belongs to another user")
	}, log)
}

func (a *api) sandbox(w http.ResponseWriter, _ *http.Request) {
	st := a.s.Status()
	localhttp.Answer(w, http.StatusOK, Live{
		Entry: a.entry, State: st.State.String(), DatapathPID: st.PID, Restarts: st.Restarts,
		Weakened: st.Hello.Confine.Weakened(), Ports: a.s.Ports(),
	})
}

func (a *api) stats(w http.ResponseWriter, r *http.Request) {
	st, err := a.s.Stats(r.Context())
	if err != nil {
		localhttp.Refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	localhttp.Answer(w, http.StatusOK, st)
}

func (a *api) listPorts(w http.ResponseWriter, _ *http.Request) {
	localhttp.Answer(w, http.StatusOK, ports{a.s.Ports()})
}

func (a *api) addPorts(w http.ResponseWriter, r *http.Request) {
	q, ok := readBody[ports](w, r)
	if !ok || !q.some(w) {
		return
	}
	bound, err := a.s.Publish(q.Ports)
	if err != nil {
		localhttp.Refuse(w, status(err), err.Error())
		return
	}
	localhttp.Answer(w, http.StatusCreated, ports{bound})
}

func (a *api) removePorts(w http.ResponseWriter, r *http.Request) {
	q, ok := readBody[ports](w, r)
	if !ok || !q.some(w) {
		return
	}
	if err := a.s.Unpublish(q.Ports); err != nil {
		localhttp.Refuse(w, status(err), err.Error())
		return
	}
	localhttp.Answer(w, http.StatusOK, ports{a.s.Ports()})
}

// some answers a request without ports.
func (p ports) some(w http.ResponseWriter) bool {
	if len(p.Ports) == 0 {
		localhttp.Refuse(w, http.StatusBadRequest, "read ports: there are none")
	}
	return len(p.Ports) > 0
}

// end sends the command a signal.
func (a *api) end(w http.ResponseWriter, r *http.Request) {
	q, ok := readBody[end](w, r)
	if !ok {
		return
	}
	const last = 64 // SIGRTMAX
	if q.Signal < 1 || q.Signal > last {
		localhttp.Refuse(w, http.StatusBadRequest, fmt.Sprintf("invalid signal: %d", q.Signal))
		return
	}
	if a.signal == nil {
		localhttp.Refuse(w, http.StatusConflict, "this sandbox takes no signals")
		return
	}
	if err := a.signal(syscall.Signal(q.Signal)); err != nil {
		localhttp.Refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// readBody reads a request's body, or answers what is wrong with it.
func readBody[T any](w http.ResponseWriter, r *http.Request) (T, bool) {
	var q T
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(&q)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("more than one value")
		}
	}
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		localhttp.Refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", long.Limit))
	case err != nil:
		localhttp.Refuse(w, http.StatusBadRequest, fmt.Sprintf("read request: %v", err))
	default:
		return q, true
	}
	return q, false
}

// status maps the kinds of errors of a Sandbox.
func status(err error) int {
	switch {
	case errors.Is(err, control.ErrNotPublished):
		return http.StatusNotFound
	case errors.Is(err, control.ErrClosed):
		return http.StatusServiceUnavailable
	case errors.Is(err, syscall.EADDRINUSE):
		return http.StatusConflict
	case errors.Is(err, syscall.EACCES):
		return http.StatusForbidden
	}
	return http.StatusBadRequest
}

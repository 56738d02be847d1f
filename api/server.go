package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/localhttp"
)

// Options are how a server presents itself.
type Options struct {
	// Version of the program, for the Server header.
	Version string
	// Log is discarded when nil.
	Log *slog.Logger
}

// Serve has h, of NewServer or something around it, answer the user of the process on a unix socket until ctx ends.
// It then closes l and all connections, ends the requests under way and returns nil.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	deny := func(w http.ResponseWriter, _ *http.Request) {
		localhttp.Refuse(w, http.StatusForbidden, "this daemon belongs to another user")
	}
	s := localhttp.NewServer(h, deny, log)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(localhttp.NewListener(l)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// server is the handler of everything.
type server struct {
	b   Backend
	o   Options
	log *slog.Logger
	now func() time.Time
	mux *http.ServeMux
}

// NewServer returns the handler of the API without the check of who asks, which Serve adds.
func NewServer(b Backend, o Options) http.Handler { return newServer(b, o) }

func newServer(b Backend, o Options) *server {
	s := &server{b: b, o: o, log: o.Log, now: time.Now, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.routes()
	return s
}

// handler is a handler whose error is answered for it. Once it has written something it returns nil.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *server) routes() {
	for pattern, h := range map[string]handler{
		"GET /_ping":                     s.ping,
		"GET /version":                   s.version,
		"GET /info":                      s.info,
		"GET /events":                    s.events,
		"GET /networks":                  s.networkList,
		"GET /networks/{$}":              s.networkList,
		"GET /networks/{id}":             s.networkInspect,
		"POST /networks/create":          s.networkCreate,
		"POST /networks/{id}/connect":    s.networkConnect,
		"POST /networks/{id}/disconnect": s.networkDisconnect,
		"POST /networks/prune":           s.networkPrune,
		"DELETE /networks/{id}":          s.networkRemove,
		"GET /containers/json":           s.containerList,
		"GET /containers/{id}/json":      s.containerInspect,
		"POST /containers/{id}/kill":     s.containerKill,
		"POST /containers/{id}/stop":     s.containerStop,
		"DELETE /containers/{id}":        s.containerRemove,
		"POST /containers/create":        elsewhere(`usernet run --network NAME -- COMMAND`),
		"POST /containers/{id}/start":    elsewhere(`usernet run --network NAME -- COMMAND`),
		"POST /containers/{id}/exec":     elsewhere(`usernet exec SANDBOX -- COMMAND`),
		"POST /containers/{id}/{action}": elsewhere(""),
		"GET /containers/{id}/{what}":    elsewhere(""),
		"POST /images/create":            elsewhere(`usernet run --network NAME -- COMMAND`),
		"GET /images/json":               empty([]any{}),
		"GET /volumes":                   empty(struct{ Volumes, Warnings []any }{Volumes: []any{}}),
		"GET /images/{id}/json":          absent("No such image: %s"),
		"GET /volumes/{id}":              absent("get %s: no such volume"),
		"GET /plugins/{id}/json":         absent("plugin %q not found"),
		"GET /services/{id}":             absent("service %s not found"),
		"GET /tasks/{id}":                absent("task %s not found"),
		"GET /nodes/{id}":                absent("node %s not found"),
		"GET /secrets/{id}":              absent("secret %s not found"),
		"GET /configs/{id}":              absent("config %s not found"),
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.refuse(w, r, err)
			}
		})
	}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", "Docker/"+s.o.Version+" (linux)") // clients read the system from it
	h.Set("Api-Version", MaxVersion.String())
	h.Set("Ostype", "linux")
	h.Set("Docker-Experimental", "false")

	u := *r.URL
	v, path, err := splitVersion(u.Path)
	if err == nil {
		// RawPath loses the version as Path does, or an escaped slash in a name would separate.
		_, u.RawPath, _ = splitVersion(u.EscapedPath())
		u.Path = path
		err = checkPath(path, u.EscapedPath())
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	r2 := r.WithContext(context.WithValue(r.Context(), versionKey{}, v))
	r2.URL = &u
	// The mux would answer a wrong method with 405 and another body than clients read.
	if _, pattern := s.mux.Handler(r2); pattern == "" {
		s.refuse(w, r, errNoPage)
		return
	}
	s.mux.ServeHTTP(w, r2)
}

var errNoPage = fault.New(fault.NotFound, "page not found")

// checkPath refuses what no route means, before a name in it gets anywhere (LU-07). What is escaped in a segment is
// the text of a name, and no separator.
func checkPath(path, escaped string) error {
	for _, seg := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(escaped, "/"), "/"), "/") {
		if name, err := url.PathUnescape(seg); err != nil || name == "" || name == "." || name == ".." {
			return errNoPage
		}
	}
	if !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl) {
		return fault.New(fault.Invalid, "invalid path %q: it has characters that no name has", path)
	}
	return nil
}

// refuse answers an error.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	if code == http.StatusInternalServerError && r.Context().Err() == nil {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	} else {
		s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", code, "err", err)
	}
	localhttp.Refuse(w, code, err.Error())
}

// status is the code of an error's kind.
func status(err error) int {
	if c, ok := errors.AsType[*codeError](err); ok {
		return c.code
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// codeError is one whose code is no kind of the control plane's.
type codeError struct {
	code int
	text string
}

func (e *codeError) Error() string { return e.text }

// elsewhere answers what Docker's daemon does and this one does not.
func elsewhere(command string) handler {
	text := "usernet keeps the networks of sandboxes and does not do this"
	if command != "" {
		text += "; use: " + command
	}
	return func(http.ResponseWriter, *http.Request) error {
		return &codeError{http.StatusNotImplemented, text}
	}
}

// absent answers for objects of which there are none.
func absent(format string) handler {
	return func(_ http.ResponseWriter, r *http.Request) error {
		return fault.New(fault.NotFound, format, r.PathValue("id"))
	}
}

// empty answers lists of objects of which there are none.
func empty(list any) handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		localhttp.Answer(w, http.StatusOK, list)
		return nil
	}
}

package localhttp

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"time"
)

// The limits of LU-06.
const (
	// MaxBody is the length of a request's body; MaxConns how many connections are served at a time.
	MaxBody  = 1 << 20
	MaxConns = 1024

	maxHeader     = 16 << 10
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 60 * time.Second
)

// NewServer returns a server with the limits of this package, to be given a Listener of this package. deny
// answers a request of another user.
func NewServer(h http.Handler, deny http.HandlerFunc, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           sameUser(h, deny),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// sameUser serves the user the process runs as, and bounds what he sends.
func sameUser(next http.Handler, deny http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := peer(r.Context()); !ok || uid != os.Geteuid() {
			w.Header().Set("Connection", "close")
			deny(w, r)
			return
		}
		if r.ContentLength != 0 {
			// Only the body's time is limited. A deadline that stayed would end a long call's context.
			c := http.NewResponseController(w)
			_ = c.SetReadDeadline(time.Now().Add(bodyTimeout)) // of a recorder in a test there is none
			r.Body = &body{ReadCloser: http.MaxBytesReader(w, r.Body, MaxBody), done: func() { _ = c.SetReadDeadline(time.Time{}) }}
		}
		next.ServeHTTP(w, r)
	})
}

type peerKey struct{}

// peer returns the user that connected.
func peer(ctx context.Context) (uid int, ok bool) {
	uid, ok = ctx.Value(peerKey{}).(int)
	return uid, ok
}

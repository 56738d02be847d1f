package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// Error is the daemon's refusal. Docker's command line writes it after "Error response from daemon: ".
type Error struct {
	Status  int // of HTTP
	Message string
}

func (e *Error) Error() string { return e.Message }

// StatusCode is the Status, for whoever asks an interface.
func (e *Error) StatusCode() int { return e.Status }

// IsNotFound reports whether err is the daemon's answer that there is no such thing.
func IsNotFound(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == http.StatusNotFound
}

// ErrNoDaemon is the cause when nobody answers on the socket.
var ErrNoDaemon = errors.New("no daemon answers")

const (
	// maxAnswer bounds an answer: thousands of networks with thousands of containers.
	maxAnswer   = 256 << 20
	idleTimeout = 30 * time.Second
)

// Client talks to one daemon.
type Client struct {
	socket string
	http   http.Client
}

// New returns a client of the daemon at a unix socket. It connects when it is first used.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true, IdleConnTimeout: idleTimeout}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Filters select what a list shows, as --filter of Docker does: values by their keys.
type Filters = map[string][]string

// withFilters adds filters to a query.
func withFilters(q url.Values, f Filters) error {
	if len(f) == 0 {
		return nil
	}
	sets := make(map[string]map[string]bool, len(f))
	for k, vs := range f {
		sets[k] = map[string]bool{}
		for _, v := range vs {
			sets[k][v] = true
		}
	}
	b, err := json.Marshal(sets)
	q.Set("filters", string(b))
	return err
}

// path joins segments, of which names are escaped. An empty name is refused here: it would be another path.
func path(segments ...string) (string, error) {
	p := ""
	for _, s := range segments {
		if s == "" {
			return "", errors.New("invalid name or ID: value is empty")
		}
		p += "/" + url.PathEscape(s)
	}
	return p, nil
}

// do makes a request; the caller closes the body of the answer, which is a success.
func (c *Client) do(ctx context.Context, method string, segments []string, q url.Values, body any) (*http.Response, error) {
	p, err := path(segments...)
	if err != nil {
		return nil, err
	}
	var b io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("ask daemon: %w", err)
		}
		b = bytes.NewReader(j)
	}
	u := "http://usernet" + p
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, u, b)
	if err != nil {
		return nil, fmt.Errorf("ask daemon: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	f := struct {
		Message string `json:"message"`
	}{resp.Status}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&f) // what is no JSON has its status
	return nil, &Error{resp.StatusCode, f.Message}
}

// explain says what to do when there is no daemon.
func (c *Client) explain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the URL is made up
	}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf(`ask daemon at %s: %w; start one with "usernet daemon"`, c.socket, ErrNoDaemon)
	}
	return fmt.Errorf("ask daemon at %s: %w", c.socket, err)
}

// call makes a request and reads the answer into v, if it is not nil. raw is the answer as it came.
func (c *Client) call(ctx context.Context, method string, segments []string, q url.Values, body, v any) (raw []byte, err error) {
	resp, err := c.do(ctx, method, segments, q, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && v != nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read daemon's answer: %w", err)
	}
	return raw, nil
}

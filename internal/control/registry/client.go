package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"

	"github.com/usernet/usernet/internal/localhttp"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// APIError is a sandbox's own refusal; Message is for people.
type APIError struct {
	Status  int // of HTTP
	Message string
}

func (e *APIError) Error() string { return e.Message }

// Sandbox asks a running sandbox how it is.
func (d *Dir) Sandbox(ctx context.Context, name string) (Live, error) {
	var l Live
	err := d.request(ctx, name, http.MethodGet, "/v1/sandbox", nil, &l)
	return l, err
}

// Ports returns what a running sandbox has published.
func (d *Dir) Ports(ctx context.Context, name string) ([]portfwd.Spec, error) {
	var p ports
	err := d.request(ctx, name, http.MethodGet, "/v1/ports", nil, &p)
	return p.Ports, err
}

// AddPorts publishes ports of a running sandbox, all or none, and returns what was bound.
func (d *Dir) AddPorts(ctx context.Context, name string, specs []portfwd.Spec) ([]portfwd.Spec, error) {
	var p ports
	err := d.request(ctx, name, http.MethodPost, "/v1/ports", ports{specs}, &p)
	return p.Ports, err
}

// RemovePorts ends ports of a running sandbox, all or none; see control.Control.Unpublish.
func (d *Dir) RemovePorts(ctx context.Context, name string, specs []portfwd.Spec) error {
	return d.request(ctx, name, http.MethodDelete, "/v1/ports", ports{specs}, nil)
}

// Stats asks for the datapath's counters.
func (d *Dir) Stats(ctx context.Context, name string) (spec.Stats, error) {
	var s spec.Stats
	err := d.request(ctx, name, http.MethodGet, "/v1/stats", nil, &s)
	return s, err
}

// Signal has a running sandbox's shim send its command a signal; SIGKILL ends the sandbox.
func (d *Dir) Signal(ctx context.Context, name string, sig syscall.Signal) error {
	return d.request(ctx, name, http.MethodPost, "/v1/end", end{int(sig)}, nil)
}

// request makes one request on a connection of its own.
func (d *Dir) request(ctx context.Context, name, method, path string, body, into any) error {
	if err := CheckName(name); err != nil {
		return err
	}
	var b io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask sandbox %s: %w", name, err)
		}
		b = bytes.NewReader(j)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://sandbox"+path, b)
	if err != nil {
		return fmt.Errorf("ask sandbox %s: %w", name, err)
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		path, done, err := d.socketPath(name)
		if err != nil {
			return nil, err
		}
		defer done()
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("ask sandbox %s: %w", name, err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, localhttp.MaxBody))
	if resp.StatusCode >= http.StatusBadRequest {
		f := localhttp.Failure{Message: resp.Status}
		_ = dec.Decode(&f) // what is no JSON has its status
		return &APIError{Status: resp.StatusCode, Message: f.Message}
	}
	if into == nil {
		return nil
	}
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("read answer of sandbox %s: %w", name, err)
	}
	return nil
}

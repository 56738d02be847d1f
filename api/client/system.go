package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/system"
)

// Ping asks whether the daemon answers.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodGet, []string{"_ping"}, nil, nil, nil)
	return err
}

// Version returns what the daemon is.
func (c *Client) Version(ctx context.Context) (system.VersionResponse, error) {
	var v system.VersionResponse
	_, err := c.call(ctx, http.MethodGet, []string{"version"}, nil, nil, &v)
	return v, err
}

// Info returns how the daemon is.
func (c *Client) Info(ctx context.Context) (system.Info, error) {
	var i system.Info
	_, err := c.call(ctx, http.MethodGet, []string{"info"}, nil, nil, &i)
	return i, err
}

// EventsOptions say which events.
type EventsOptions struct {
	// Since and Until are points in time in Docker's forms: seconds since 1970, RFC 3339, or a duration before now.
	Since, Until string
	Filters      Filters
}

// Events returns events as they happen. They end with ctx, with Until, or with an error, which is the last
// of them.
func (c *Client) Events(ctx context.Context, o EventsOptions) iter.Seq2[events.Message, error] {
	return func(yield func(events.Message, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := c.events(ctx, o)
		if err != nil {
			yield(events.Message{}, err)
			return
		}
		defer resp.Body.Close()
		for dec := json.NewDecoder(resp.Body); ; {
			var m events.Message
			err := dec.Decode(&m)
			switch {
			case errors.Is(err, io.EOF) || ctx.Err() != nil:
				return
			case err != nil:
				yield(m, fmt.Errorf("read daemon's events: %w", err))
				return
			case !yield(m, nil):
				return
			}
		}
	}
}

func (c *Client) events(ctx context.Context, o EventsOptions) (*http.Response, error) {
	q := url.Values{}
	if o.Since != "" {
		q.Set("since", o.Since)
	}
	if o.Until != "" {
		q.Set("until", o.Until)
	}
	if err := withFilters(q, o.Filters); err != nil {
		return nil, err
	}
	return c.do(ctx, http.MethodGet, []string{"events"}, q, nil)
}

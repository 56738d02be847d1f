package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
)

// ContainerList returns the running containers that the filters let through, the newest first.
func (c *Client) ContainerList(ctx context.Context, f Filters) ([]container.Summary, error) {
	q := url.Values{}
	if err := withFilters(q, f); err != nil {
		return nil, err
	}
	var list []container.Summary
	_, err := c.call(ctx, http.MethodGet, []string{"containers", "json"}, q, nil, &list)
	return list, err
}

// ContainerInspect returns a container, and the JSON it came as, for templates.
func (c *Client) ContainerInspect(ctx context.Context, ref string) (container.InspectResponse, []byte, error) {
	var i container.InspectResponse
	raw, err := c.call(ctx, http.MethodGet, []string{"containers", ref, "json"}, nil, nil, &i)
	return i, raw, err
}

// ContainerKill sends a signal by its name or number, SIGKILL when it is empty.
func (c *Client) ContainerKill(ctx context.Context, ref, signal string) error {
	q := url.Values{}
	if signal != "" {
		q.Set("signal", signal)
	}
	_, err := c.call(ctx, http.MethodPost, []string{"containers", ref, "kill"}, q, nil, nil)
	return err
}

// ContainerStop ends a container, after timeout with SIGKILL.
func (c *Client) ContainerStop(ctx context.Context, ref string, timeout time.Duration) error {
	q := url.Values{"t": {strconv.Itoa(int(timeout.Seconds()))}}
	_, err := c.call(ctx, http.MethodPost, []string{"containers", ref, "stop"}, q, nil, nil)
	return err
}

// ContainerRemove ends a container if force is set; otherwise one that runs is a refusal.
func (c *Client) ContainerRemove(ctx context.Context, ref string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "1")
	}
	_, err := c.call(ctx, http.MethodDelete, []string{"containers", ref}, q, nil, nil)
	return err
}

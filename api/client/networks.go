package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/network"
)

// NetworkList returns the networks that the filters let through.
func (c *Client) NetworkList(ctx context.Context, f Filters) ([]network.Summary, error) {
	q := url.Values{}
	if err := withFilters(q, f); err != nil {
		return nil, err
	}
	var list []network.Summary
	_, err := c.call(ctx, http.MethodGet, []string{"networks"}, q, nil, &list)
	return list, err
}

// NetworkInspect returns a network, and the JSON it came as, for templates.
func (c *Client) NetworkInspect(ctx context.Context, ref string, verbose bool) (network.Inspect, []byte, error) {
	q := url.Values{}
	if verbose {
		q.Set("verbose", "true")
	}
	var n network.Inspect
	raw, err := c.call(ctx, http.MethodGet, []string{"networks", ref}, q, nil, &n)
	return n, raw, err
}

// NetworkCreate makes a network.
func (c *Client) NetworkCreate(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error) {
	var resp network.CreateResponse
	_, err := c.call(ctx, http.MethodPost, []string{"networks", "create"}, nil, r, &resp)
	return resp, err
}

// NetworkRemove removes a network without containers.
func (c *Client) NetworkRemove(ctx context.Context, ref string) error {
	_, err := c.call(ctx, http.MethodDelete, []string{"networks", ref}, nil, nil, nil)
	return err
}

// NetworkConnect gives a running container another leg.
func (c *Client) NetworkConnect(ctx context.Context, ref string, r network.ConnectRequest) error {
	_, err := c.call(ctx, http.MethodPost, []string{"networks", ref, "connect"}, nil, r, nil)
	return err
}

// NetworkDisconnect takes one away; with Force also that of a container that has vanished.
func (c *Client) NetworkDisconnect(ctx context.Context, ref string, r network.DisconnectRequest) error {
	_, err := c.call(ctx, http.MethodPost, []string{"networks", ref, "disconnect"}, nil, r, nil)
	return err
}

// NetworkPrune removes the networks that nobody uses and that the filters let through, and says which.
func (c *Client) NetworkPrune(ctx context.Context, f Filters) (network.PruneReport, error) {
	var report network.PruneReport
	q := url.Values{}
	if err := withFilters(q, f); err != nil {
		return report, err
	}
	_, err := c.call(ctx, http.MethodPost, []string{"networks", "prune"}, q, nil, &report)
	return report, err
}

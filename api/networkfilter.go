package api

import (
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm/fault"
)

// What can be asked of lists of networks, in Docker's words.
var (
	networkFilters = []string{"dangling", "driver", "id", "label", "name", "scope", "type"}
	pruneFilters   = []string{"label", "label!", "until"}
)

// predefined reports whether a network is one that is always there.
func predefined(name string) bool {
	switch name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return true
	}
	return false
}

// network returns what the filters of `network ls` let through.
func (f Filters) network() (func(network.Inspect) bool, error) {
	dangling, byUse, err := f.boolean("dangling")
	if err != nil {
		return nil, err
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return nil, fault.New(fault.Invalid, "invalid filter: 'type'='%s'", t)
		}
	}
	name, id := f.patterns("name"), f.patterns("id")
	return func(n network.Inspect) bool {
		kind := "custom"
		if predefined(n.Name) {
			kind = "builtin"
		}
		unused := kind == "custom" && len(n.Containers) == 0 && len(n.Services) == 0
		return name.match(n.Name) && id.match(n.ID) && f.exact("driver", n.Driver) && f.exact("scope", n.Scope) &&
			f.exact("type", kind) && f.labels("label", n.Labels) && (!byUse || dangling == unused)
	}, nil
}

// prune returns what the filters of `network prune` let go. Which networks are in use is the Backend's to know.
func (f Filters) prune(now time.Time) (func(network.Inspect) bool, error) {
	var until time.Time
	switch vs := f["until"]; len(vs) {
	case 0:
	case 1:
		var err error
		if until, err = parseTime(vs[0], now); err != nil {
			return nil, fault.New(fault.Invalid, "invalid filter 'until=%s': %w", vs[0], err)
		}
	default:
		return nil, fault.New(fault.Invalid, "more than one until filter specified")
	}
	return func(n network.Inspect) bool {
		kept := len(f["label!"]) > 0 && f.labels("label!", n.Labels)
		return f.labels("label", n.Labels) && !kept && (until.IsZero() || !n.Created.After(until))
	}, nil
}

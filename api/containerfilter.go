package api

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/usernet/usernet/cnm/fault"
)

// containerFilters are what `ps` can ask. Those about images, volumes, health and exit codes are
// accepted and let nothing through, for there is none of these.
var containerFilters = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
	"publish", "since", "status", "volume",
}

// states are those a container can have in Docker; here it runs, or is not there.
var states = []string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}

// container returns what the filters of `ps` let through.
func (f Filters) container() (func(container.Summary) bool, error) {
	for _, s := range f["status"] {
		if !slices.Contains(states, s) {
			return nil, fault.New(fault.Invalid, "invalid filter 'status=%s'", s)
		}
	}
	task, byTask, err := f.boolean("is-task")
	if err != nil {
		return nil, err
	}
	for _, k := range []string{"before", "since"} {
		if len(f[k]) > 0 {
			return nil, fault.New(fault.Invalid, "invalid filter '%s': it is not served", k)
		}
	}
	expose, err := parsePorts(f["expose"])
	if err != nil {
		return nil, err
	}
	publish, err := parsePorts(f["publish"])
	if err != nil {
		return nil, err
	}
	name, id := f.patterns("name"), f.patterns("id")
	return func(c container.Summary) bool {
		none := len(f["ancestor"]) > 0 || len(f["exited"]) > 0 || len(f["volume"]) > 0 || byTask && task
		named := slices.ContainsFunc(c.Names, func(n string) bool {
			return name.match(n) || name.match(strings.TrimPrefix(n, "/"))
		})
		return !none && named && id.match(c.ID) && f.exact("health", "none") && f.exact("status", string(c.State)) &&
			f.labels("label", c.Labels) && f.onNetwork(c) && expose.private(c) && publish.public(c)
	}, nil
}

// onNetwork matches names and the beginnings of ids.
func (f Filters) onNetwork(c container.Summary) bool {
	if len(f["network"]) == 0 {
		return true
	}
	if c.NetworkSettings == nil {
		return false
	}
	for name, e := range c.NetworkSettings.Networks {
		if slices.Contains(f["network"], name) || e != nil && e.NetworkID != "" && f.prefix("network", e.NetworkID) {
			return true
		}
	}
	return false
}

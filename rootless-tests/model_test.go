package rootlesstests

import (
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// M11 to M14: one API makes networks of several drivers, and the driver alone decides what its containers have.
func TestDrivers(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	if got := d.Must(t, "docker", "info", "--format", "{{json .Plugins.Network}}"); !strings.Contains(got, `"bridge"`) || !strings.Contains(got, `"host"`) || !strings.Contains(got, `"null"`) {
		t.Errorf("drivers: %s", got)
	}
	d.Must(t, "docker", "network", "create", "--driver", "bridge", "n")
	for _, row := range []struct {
		network, route, links string
	}{
		{"n", "default via", "eth0"},
		{"none", "", ""},
		{"host", "default via", "eth0"},
	} {
		sb := d.Run(t, "--network", row.network)
		if got := sb.Node.Run(t, "ip", "route", "show", "default"); !strings.HasPrefix(got, row.route) || row.route == "" && got != "" {
			t.Errorf("network %s: routes %q", row.network, got)
		}
		links := ""
		for _, l := range strings.Split(strings.TrimSpace(sb.Node.Run(t, "ip", "-brief", "link")), "\n") {
			name, _, _ := strings.Cut(strings.Fields(l)[0], "@")
			if name != "lo" {
				links += name
			}
		}
		if links != row.links {
			t.Errorf("network %s: interfaces %q, want %q", row.network, links, row.links)
		}
		sb.End(t)
	}
	// Names are balanced over the containers that have one (M13, LB2): each is first now and then.
	for range 2 {
		d.Run(t, "--network", "name=n,alias=web")
	}
	asker := d.Run(t, "--network", "n")
	first := map[string]bool{}
	rig.WaitFor(t, 10*time.Second, "both containers in the first place", func() bool {
		out := strings.Fields(asker.Node.Run(t, "dig", "+short", "web"))
		if len(out) > 0 {
			first[out[0]] = true
		}
		return len(first) == 2
	})
}

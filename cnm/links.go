package cnm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/hostsfile"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// Links (LK).
//
// On a Network with names a link is an alias that the receiver alone sees; the resolver answers it
// (names.go), and the target need not exist. On the default bridge, which has no names, a link is a
// line in the receiver's /etc/hosts, a hole for the target's exposed ports where containers may not talk
// to each other, and with the profile 20.10 variables in the receiver's environment. The line and the hole
// come and go with the target; the variables are those of the start.

// link is NAME[:ALIAS].
type link struct {
	name, alias string
}

// parseLinks reads values of --link.
func parseLinks(values []string) ([]link, error) {
	var ls []link
	for _, v := range values {
		name, alias, _ := strings.Cut(v, ":")
		if alias == "" {
			alias = strings.TrimPrefix(name, "/")
		}
		switch {
		case v == "":
			return nil, fault.New(fault.Invalid, "empty string specified for links")
		case name == "" || strings.Contains(alias, ":") || !isWord(alias):
			return nil, fault.New(fault.Invalid, "bad format for links: %s", v)
		}
		ls = append(ls, link{name, alias})
	}
	return ls, nil
}

// onDefaultBridgeLocked is the leg in the Network without names, nil if there is none.
func (sb *Sandbox) onDefaultBridgeLocked() *endpoint {
	return first(sb.presentLocked(), func(ep *endpoint) bool { return !ep.net.names })
}

// checkLinksLocked refuses legacy links to what is not there, in Docker's words.
func (c *Controller) checkLinksLocked(sb *Sandbox) error {
	for _, l := range sb.links {
		child, err := c.findSandboxLocked(strings.TrimPrefix(l.name, "/"))
		if err != nil {
			return fault.New(fault.NotFound, "could not get container for %s: %w", l.name, err)
		}
		if child.state == joining || child.state == closed {
			return fault.New(fault.Conflict, "Cannot link to a non running container: /%s AS /%s/%s", child.conf.Name, sb.conf.Name, l.alias)
		}
		if child.onDefaultBridgeLocked() == nil {
			return fault.New(fault.Invalid, "Cannot link to /%s, as it does not belong to the default network", child.conf.Name)
		}
	}
	return nil
}

// linked calls f for each legacy link that leads somewhere now.
func (sb *Sandbox) linkedLocked(f func(l link, child *Sandbox, ep *endpoint)) {
	if sb.onDefaultBridgeLocked() == nil {
		return
	}
	for _, l := range sb.links {
		child, err := sb.c.findSandboxLocked(strings.TrimPrefix(l.name, "/"))
		if err != nil {
			continue
		}
		if ep := child.onDefaultBridgeLocked(); ep != nil {
			f(l, child, ep)
		}
	}
}

// linkLinesLocked are the lines of /etc/hosts (LK5): address, alias, the target's hostname and name.
func (sb *Sandbox) linkLinesLocked() (lines []hostsfile.Line) {
	sb.linkedLocked(func(l link, child *Sandbox, ep *endpoint) {
		names := []string{l.alias}
		for _, n := range []string{child.conf.hostname(), child.conf.Name} {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		lines = append(lines, hostsfile.Line{Addr: ep.link.Addr4.Addr(), Names: names})
	})
	return lines
}

// acceptLocked are the holes for those who link to this leg (LK6).
func (ep *endpoint) acceptLocked() (holes []spec.Accept) {
	if !ep.net.spec.Apart || ep.net.names {
		return nil
	}
	for _, parent := range ep.sandbox.c.sandboxesLocked() {
		parent.linkedLocked(func(_ link, _ *Sandbox, to *endpoint) {
			if to != ep {
				return
			}
			for _, p := range exposed(&ep.sandbox.conf) {
				holes = append(holes, spec.Accept{From: parent.onDefaultBridgeLocked().id, Proto: string(p.Proto), Port: p.Port})
			}
		})
	}
	return holes
}

// exposed are the ports a container exposes or publishes, each once, tcp first, then by number.
func exposed(s *SandboxConfig) []portfwd.Spec {
	var ps []portfwd.Spec
	for _, p := range slices.Concat(s.Expose, s.Publish) {
		ps = append(ps, portfwd.Spec{Proto: p.Proto, Port: p.Port})
	}
	slices.SortFunc(ps, func(a, b portfwd.Spec) int {
		return cmp.Or(strings.Compare(string(a.Proto), string(b.Proto)), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(ps)
}

// linkEnvLocked are the variables of the legacy links.
func (sb *Sandbox) linkEnvLocked() (env []string) {
	sb.linkedLocked(func(l link, child *Sandbox, ep *endpoint) {
		env = append(env, linkEnv(l.alias, sb.conf.Name, ep.link.Addr4.Addr().String(), &child.conf)...)
	})
	return env
}

// linkEnv are those of one link in Docker's order (LK2, LK3, LK4).
func linkEnv(alias, parent, addr string, child *SandboxConfig) (env []string) {
	up := strings.ReplaceAll(strings.ToUpper(alias), "-", "_")
	add := func(format string, args ...any) { env = append(env, up+fmt.Sprintf(format, args...)) }
	url := func(p portfwd.Spec) string { return fmt.Sprintf("%s://%s:%d", p.Proto, addr, p.Port) }

	ports := exposed(child)
	if len(ports) > 0 {
		lowest := slices.MinFunc(ports, func(a, b portfwd.Spec) int { return cmp.Compare(a.Port, b.Port) })
		add("_PORT=%s", url(lowest))
	}
	for len(ports) > 0 {
		n := 1
		for n < len(ports) && ports[n].Proto == ports[0].Proto && ports[n].Port == ports[n-1].Port+1 {
			n++
		}
		if n > 2 { // Docker sums up three or more in a row
			from, to := ports[0], ports[n-1]
			up := fmt.Sprintf("_PORT_%d_%s", from.Port, strings.ToUpper(string(from.Proto)))
			add("%s_START=%s", up, url(from))
			add("%s_ADDR=%s", up, addr)
			add("%s_PROTO=%s", up, from.Proto)
			add("%s_PORT_START=%d", up, from.Port)
			add("%s_END=%s", up, url(to))
			add("%s_PORT_END=%d", up, to.Port)
		}
		ports = ports[n:]
	}
	for _, p := range exposed(child) {
		up := fmt.Sprintf("_PORT_%d_%s", p.Port, strings.ToUpper(string(p.Proto)))
		add("%s=%s", up, url(p))
		add("%s_ADDR=%s", up, addr)
		add("%s_PORT=%d", up, p.Port)
		add("%s_PROTO=%s", up, p.Proto)
	}
	add("_NAME=/%s/%s", parent, alias)
	for _, v := range child.Env {
		if k, _, ok := strings.Cut(v, "="); ok && k != "HOME" && k != "PATH" {
			add("_ENV_%s", v)
		}
	}
	return env
}

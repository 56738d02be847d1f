// Package resolvconf reads, writes and watches resolv.conf(5).
//
// Control uses it on both sides: to learn the host's resolvers and follow their changes, and to write the file of a
// sandbox. It accepts whatever the C library accepts and ignores the rest as the C library does: a file
// somebody is in the middle of editing is no reason to fail.
package resolvconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of the C library (resolv.h: MAXNS, RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY), and ours on a file.
const (
	MaxNameservers = 3

	maxNDots    = 15
	maxTimeout  = 30
	maxAttempts = 5
	maxSearch   = 32
	maxFile     = 64 << 10
)

// Config is what a resolv.conf says. The zero value is an empty file.
type Config struct {
	// Nameservers are in file order, MaxNameservers at most. The zone of a link-local address is a number.
	Nameservers []netip.Addr
	// Search holds the domains tried for short names, without trailing dots, except the root itself.
	Search []string
	// Options are as written, such as "ndots:2" or "edns0", each name once, the last one wins.
	Options []string
}

// Zone finds the number of a network interface of the host by its name. It is net.InterfaceByName where that may be called.
type Zone func(name string) (index int, ok bool)

// Parse reads a file. It never fails: lines it does not understand are ignored, and so is a name server whose zone
// names no interface. zone may be nil, then only numeric zones are understood.
func Parse(b []byte, zone Zone) Config {
	if len(b) > maxFile {
		b = b[:maxFile]
	}
	var c Config
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		// The C library knows a keyword only at the start of its line.
		if len(fields) < 2 || !strings.HasPrefix(line, fields[0]) {
			continue
		}
		args := uncomment(fields[1:])
		if len(args) == 0 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, ok := parseAddr(args[0], zone); ok && len(c.Nameservers) < MaxNameservers {
				c.Nameservers = append(c.Nameservers, a)
			}
		case "domain":
			c.Search = parseSearch(args[:1])
		case "search":
			c.Search = parseSearch(args)
		case "options":
			for _, o := range args {
				c.setOption(o)
			}
		}
	}
	return c
}

// uncomment drops what follows a word that begins with # or ;. The C library would take those words for
// arguments; nobody who writes them means that.
func uncomment(args []string) []string {
	i := slices.IndexFunc(args, func(s string) bool { return s[0] == '#' || s[0] == ';' })
	if i < 0 {
		return args
	}
	return args[:i]
}

// parseAddr reads a name server's address and makes its zone a number.
func parseAddr(s string, zone Zone) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, false
	}
	a = a.Unmap()
	name := a.Zone()
	if name == "" {
		return a, true
	}
	a = a.WithZone("")
	if !a.IsLinkLocalUnicast() {
		return a, true // a zone has no meaning here
	}
	index, err := strconv.ParseUint(name, 10, 31)
	if err != nil || index == 0 {
		if zone == nil {
			return netip.Addr{}, false
		}
		i, ok := zone(name)
		if !ok || i <= 0 {
			return netip.Addr{}, false
		}
		index = uint64(i)
	}
	return a.WithZone(strconv.FormatUint(index, 10)), true
}

// parseSearch keeps the words that can be domains; what is written to a sandbox's file must not break
// its lines.
func parseSearch(words []string) []string {
	var out []string
	for _, w := range words {
		if w != "." {
			w = strings.TrimSuffix(w, ".")
			if strings.HasSuffix(w, ".") {
				continue // an empty label
			}
		}
		if len(w) == 0 || len(w) > 253 || len(out) == maxSearch || !printable(w) {
			continue
		}
		out = append(out, w)
	}
	return out
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// setOption replaces the option of the same name, or adds it.
func (c *Config) setOption(o string) {
	if !printable(o) {
		return
	}
	name, _, _ := strings.Cut(o, ":")
	c.Options = slices.DeleteFunc(c.Options, func(old string) bool {
		n, _, _ := strings.Cut(old, ":")
		return n == name
	})
	c.Options = append(c.Options, o)
}

// Has reports whether an option without a value is set: "edns0", "trust-ad", "use-vc", "rotate".
func (c Config) Has(option string) bool { return slices.Contains(c.Options, option) }

// NDots is how many dots a name needs to be tried as it is first: 1 unless set, 15 at most.
func (c Config) NDots() int { return c.number("ndots", 1, 0, maxNDots) }

// Timeout is how many seconds the C library waits for a server: 5 unless set, 1 to 30.
func (c Config) Timeout() int { return c.number("timeout", 5, 1, maxTimeout) }

// Attempts is how many times the C library asks all servers: 2 unless set, 1 to 5.
func (c Config) Attempts() int { return c.number("attempts", 2, 1, maxAttempts) }

func (c Config) number(name string, unset, low, high int) int {
	for _, o := range c.Options {
		if n, value, _ := strings.Cut(o, ":"); n == name {
			// A value that is no number counts as 0, as with atoi.
			i, _ := strconv.Atoi(value)
			return min(max(i, low), high)
		}
	}
	return unset
}

// Upstreams returns the name servers on the DNS port.
func (c Config) Upstreams() []netip.AddrPort {
	out := make([]netip.AddrPort, len(c.Nameservers))
	for i, a := range c.Nameservers {
		out[i] = netip.AddrPortFrom(a, 53)
	}
	return out
}

// Format writes c as a file. Parse reads the same Config from it.
func (c Config) Format() []byte {
	var b strings.Builder
	for _, a := range c.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return []byte(b.String())
}

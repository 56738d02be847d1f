// Package hostsfile writes hosts(5) as Docker writes it for a container.
package hostsfile

import (
	"net/netip"
	"strings"
)

// Line is one address with its names, the full one first.
type Line struct {
	Addr  netip.Addr
	Names []string
}

// static is what every container's file begins with.
const static = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\n" +
	"ff00::\tip6-mcastprefix\n" +
	"ff02::1\tip6-allnodes\n" +
	"ff02::2\tip6-allrouters\n"

// Format is the file: the static lines, then these. A line without an address or without names has no
// place in it.
func Format(lines []Line) string { return static + Lines(lines) }

// Lines are these lines alone, to go after others.
func Lines(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		if !l.Addr.IsValid() || len(l.Names) == 0 {
			continue
		}
		b.WriteString(l.Addr.String())
		b.WriteByte('\t')
		b.WriteString(strings.Join(l.Names, " "))
		b.WriteByte('\n')
	}
	return b.String()
}

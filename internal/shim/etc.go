package shim

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Resolv is what a resolv.conf says (resolv.conf(5)).
type Resolv struct {
	Nameservers []netip.Addr // may have a zone
	Search      []string
	Options     []string
}

// ParseResolv reads a resolv.conf as glibc does: unknown and malformed lines are passed over, the last
// of search and domain counts, options add up.
func ParseResolv(r io.Reader) (Resolv, error) {
	var rc Resolv
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				rc.Nameservers = append(rc.Nameservers, a)
			}
		case "search":
			rc.Search = f[1:]
		case "domain":
			rc.Search = f[1:2]
		case "options":
			rc.Options = append(rc.Options, f[1:]...)
		}
	}
	if err := s.Err(); err != nil {
		return Resolv{}, fmt.Errorf("read resolv.conf: %w", err)
	}
	return rc, nil
}

// WithoutLoopback leaves out the name servers that only the host itself reaches.
func (rc Resolv) WithoutLoopback() Resolv {
	var as []netip.Addr
	for _, a := range rc.Nameservers {
		if !a.IsLoopback() && !a.IsUnspecified() {
			as = append(as, a)
		}
	}
	rc.Nameservers = as
	return rc
}

// String is the file.
func (rc Resolv) String() string {
	var b strings.Builder
	b.WriteString("# Made by usernet for this sandbox.\n")
	for _, a := range rc.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(rc.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(rc.Search, " "))
	}
	if len(rc.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(rc.Options, " "))
	}
	return b.String()
}

// Host is a line of /etc/hosts.
type Host struct {
	Addr  netip.Addr
	Names []string
}

// HostsFile is the /etc/hosts of a sandbox with these lines after the static ones, as Docker writes it.
func HostsFile(lines []Host) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	AppendHosts(&b, lines)
	return b.String()
}

// AppendHosts writes lines in the form of /etc/hosts. A line whose address is invalid has no place there.
func AppendHosts(w io.Writer, lines []Host) {
	for _, l := range lines {
		if l.Addr.IsValid() && len(l.Names) > 0 {
			fmt.Fprintf(w, "%s\t%s\n", l.Addr, strings.Join(l.Names, " "))
		}
	}
}

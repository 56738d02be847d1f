package cnm

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/usernet/usernet/cnm/fault"
)

// What sandboxes say of themselves ends in files and in answers of the name server, of their own and of those
// that link to them. So nothing that could break out of its word gets that far.

// maxWord bounds a name, in bytes: that of a DNS name.
const maxWord = 253

// maxNetworkName bounds a Network's name in bytes.
const maxNetworkName = 255

// checkNetworkName refuses names that could not be asked for again in a path of the API, or that a terminal or a file
// system would take for something else (LU-07).
func checkNetworkName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return fault.New(fault.Invalid, "invalid name: name is empty")
	case len(name) > maxNetworkName:
		return fault.New(fault.Invalid, "invalid name: %d bytes are more than %d", len(name), maxNetworkName)
	case name == "." || name == ".." || strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name):
		return fault.New(fault.Invalid, `invalid name: %q: a name has no slash, backslash or control character, and is not "." or ".."`, name)
	}
	return nil
}

// check refuses a sandbox's configuration that could not be written down.
func (s *SandboxConfig) check() error {
	if !isID(s.ID) {
		return fault.New(fault.Invalid, "invalid container id %q: want 64 hexadecimal digits", s.ID)
	}
	if s.Name != "" && !isName(s.Name) {
		return fault.New(fault.Invalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", s.Name)
	}
	for _, w := range []string{s.Hostname, s.Domainname} {
		if w != "" && !isWord(w) {
			return fault.New(fault.Invalid, "invalid hostname format: %s", w)
		}
	}
	for _, list := range []struct {
		what  string
		words []string
	}{{"DNS search domain", s.DNSSearch}, {"DNS option", s.DNSOptions}, {"host name", hostNames(s.ExtraHosts)}} {
		for _, w := range list.words {
			if !isWord(w) {
				return fault.New(fault.Invalid, "invalid %s %q: want one word of at most %d bytes", list.what, w, maxWord)
			}
		}
	}
	return nil
}

func hostNames(hs []Host) (names []string) {
	for _, h := range hs {
		names = append(names, h.Name)
	}
	return names
}

// isID is 64 hexadecimal digits in lower case.
func isID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}

// isName is Docker's rule for names of containers.
func isName(s string) bool {
	return len(s) <= maxWord && s[0] != '_' && s[0] != '.' && s[0] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == ""
}

// isWord is something that stays one word in a file.
func isWord(s string) bool {
	return s != "" && len(s) <= maxWord && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' })
}

// check refuses a leg that no Controller can have made.
func (e *RejoinEndpoint) check() error {
	l := e.Link
	switch {
	case !isID(l.EndpointID):
		return fault.New(fault.Invalid, "invalid endpoint id %q", l.EndpointID)
	case l.Addr4.IsValid() && !l.Addr4.Addr().Is4(), l.Addr6.IsValid() && !l.Addr6.Addr().Is6(), l.MAC.IsZero(), !isWord(l.Name):
		return fault.New(fault.Invalid, "endpoint %s has no interface that could be: %+v", shortID(l.EndpointID), l)
	}
	for _, p := range l.LinkLocal {
		// Whatever is among its addresses it may send from.
		if !p.Addr().IsLinkLocalUnicast() {
			return fault.New(fault.Invalid, "endpoint %s: invalid link local IP address: %s", shortID(l.EndpointID), p.Addr())
		}
	}
	return nil
}

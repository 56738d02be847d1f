package dnsproxy

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/spec"
)

// localTTL is short because an address goes to the next container as soon as it is free: a
// record must not be believed a second after its endpoint is gone.
const localTTL = 1

// zone is what the Network knows itself: an immutable table of names, and which addresses are its own.
type zone struct {
	subnets [2]netip.Prefix
	// hosts is by name in wire form and lower case.
	hosts map[string][]netip.Addr
	// names is by address; each has a trailing dot and its first letter case as configured.
	names map[netip.Addr][]string
}

// newZone leaves out, and logs, names that cannot be in DNS.
func newZone(n spec.Network, hosts map[string][]netip.Addr, log *slog.Logger) *zone {
	z := &zone{
		subnets: [2]netip.Prefix{n.Subnet4, n.Subnet6},
		hosts:   make(map[string][]netip.Addr, len(hosts)),
		names:   make(map[netip.Addr][]string),
	}
	for name, addrs := range hosts {
		fqdn := dns.Fqdn(name)
		var buf [maxName]byte
		n, err := dns.PackDomainName(fqdn, buf[:], 0, nil, false)
		if err != nil || fqdn == "." {
			log.Warn("dns name skipped: not a domain name", "name", name)
			continue
		}
		key := string(appendLower(nil, buf[:n]))
		z.hosts[key] = append(z.hosts[key], addrs...)
		for _, a := range addrs {
			a = a.Unmap().WithZone("")
			z.names[a] = append(z.names[a], fqdn)
		}
	}
	for _, names := range z.names {
		slices.Sort(names) // the map's order would change with each Configure
	}
	return z
}

// answer returns the answer to q when the zone is the one to give it: then nobody else is asked.
func (z *zone) answer(q *query) (msg []byte, local bool) {
	if q.qclass != dns.ClassINET && q.qclass != dns.ClassANY {
		return nil, false
	}
	var buf [maxName]byte
	if addrs, ok := z.hosts[string(appendLower(buf[:0], q.name()))]; ok {
		return z.pack(q, rcodeSuccess, func(name string) []dns.RR { return addrRecords(name, q.qtype, addrs) }), true
	}
	addr, ok := reverseAddr(q.name())
	if !ok {
		return nil, false
	}
	if names, ok := z.names[addr]; ok {
		return z.pack(q, rcodeSuccess, func(name string) []dns.RR { return nameRecords(name, q.qtype, names) }), true
	}
	if z.subnets[0].Contains(addr) || z.subnets[1].Contains(addr) {
		// Nobody outside can know the Network's addresses, nor should learn which are in use.
		return z.pack(q, rcodeNXDomain, nil), true
	}
	return nil, false
}

// pack builds a local answer with the records that rrs returns for the name as the client wrote it.
func (z *zone) pack(q *query, rcode int, rrs func(name string) []dns.RR) []byte {
	name, _, err := dns.UnpackDomainName(q.question, 0)
	if err != nil {
		return q.refusal(rcodeFormErr)
	}
	m := dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: q.id, Response: true, Authoritative: true, RecursionAvailable: true,
			RecursionDesired: q.flags&flagRD != 0, CheckingDisabled: q.flags&flagCD != 0, Rcode: rcode,
		},
		Compress: true,
		Question: []dns.Question{{Name: name, Qtype: q.qtype, Qclass: q.qclass}},
	}
	if rrs != nil {
		m.Answer = rrs(name)
	}
	if q.edns {
		m.SetEdns0(upstreamSize, q.do)
	}
	b, err := m.Pack()
	if err != nil {
		return q.refusal(rcodeServFail)
	}
	return b
}

// addrRecords returns the A and AAAA records that qtype asks for; none is an answer too.
func addrRecords(name string, qtype uint16, addrs []netip.Addr) (rrs []dns.RR) {
	for _, a := range addrs {
		h := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: localTTL}
		switch a = a.Unmap(); {
		case a.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
			h.Rrtype = dns.TypeA
			rrs = append(rrs, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
			h.Rrtype = dns.TypeAAAA
			rrs = append(rrs, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return rrs
}

func nameRecords(name string, qtype uint16, names []string) (rrs []dns.RR) {
	if qtype != dns.TypePTR && qtype != dns.TypeANY {
		return nil
	}
	h := dns.RR_Header{Name: name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: localTTL}
	for _, n := range names {
		rrs = append(rrs, &dns.PTR{Hdr: h, Ptr: n})
	}
	return rrs
}

// reverseAddr reads the address out of a name below in-addr.arpa or ip6.arpa (RFC 1035 §3.5, RFC 3596 §2.5),
// given in wire form. It is false for a name that has not all labels of an address.
func reverseAddr(name []byte) (netip.Addr, bool) {
	const suffix4, suffix6 = "\x07in-addr\x04arpa\x00", "\x03ip6\x04arpa\x00"
	var buf [maxName]byte
	s := string(appendLower(buf[:0], name))
	if rest, ok := strings.CutSuffix(s, suffix4); ok {
		return reverse4(rest)
	}
	if rest, ok := strings.CutSuffix(s, suffix6); ok {
		return reverse6(rest)
	}
	return netip.Addr{}, false
}

// reverse4 reads four labels, the lowest byte first.
func reverse4(labels string) (netip.Addr, bool) {
	var dotted string
	for len(labels) > 0 {
		n := int(labels[0])
		dotted = "." + labels[1:1+n] + dotted
		labels = labels[1+n:]
	}
	a, err := netip.ParseAddr(strings.TrimPrefix(dotted, "."))
	return a, err == nil && a.Is4()
}

// reverse6 reads 32 labels of one hexadecimal digit, the lowest first.
func reverse6(labels string) (netip.Addr, bool) {
	var b [16]byte
	if len(labels) != 64 {
		return netip.Addr{}, false
	}
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", labels[2*i+1])
		if labels[2*i] != 1 || digit < 0 {
			return netip.Addr{}, false
		}
		// The i-th label from the left is the i-th nibble from the right.
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

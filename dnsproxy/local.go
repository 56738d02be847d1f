package dnsproxy

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// localTTL is short because an address goes to the next container as soon as it is free: a record must not be
// believed a second after its Endpoint is gone (DN-18). Docker says 600 and lives with clients that believe it.
const localTTL = 1

// maxRecords bounds one answer: as many AAAA records as fit a message over TCP, and more than anybody tries.
const maxRecords = 2000

// answer returns the answer to q when it is given here: then nobody else is asked.
func (s *Server) answer(v *view, q *query) (msg []byte, local bool) {
	k := s.find(v, q)
	if k.finding == notHere {
		return nil, false
	}
	return k.answer(q), true
}

func (k *known) answer(q *query) []byte {
	rcode, internet := rcodeSuccess, q.qclass == dns.ClassINET || q.qclass == dns.ClassANY
	switch k.finding {
	case nobody:
		rcode = rcodeNXDomain
	case failed:
		return q.refusal(rcodeServFail)
	}
	return localAnswer(q, rcode, func(name string) []dns.RR {
		switch {
		case !internet:
			return nil
		case k.finding == foundAddr:
			return nameRecords(name, q.qtype, k.names)
		}
		return addrRecords(name, q.qtype, k.addrs)
	})
}

// localAnswer builds a local answer with the records that rrs returns for the name as the client wrote it.
func localAnswer(q *query, rcode int, rrs func(name string) []dns.RR) []byte {
	name, _, err := dns.UnpackDomainName(q.question, 0)
	if err != nil {
		return q.refusal(rcodeFormErr)
	}
	m := dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id: q.id, Response: true, RecursionAvailable: true,
			RecursionDesired: q.flags&flagRD != 0, CheckingDisabled: q.flags&flagCD != 0, Rcode: rcode,
		},
		Compress: true,
		Question: []dns.Question{{Name: name, Qtype: q.qtype, Qclass: q.qclass}},
	}
	m.Answer = rrs(name)
	if q.edns {
		m.SetEdns0(upstreamSize, q.do)
	}
	b, err := m.Pack()
	if err != nil {
		return q.refusal(rcodeServFail)
	}
	return b
}

// addrRecords returns the A and AAAA records that qtype asks for; none is an answer too. Their order is another each
// time, so that clients that take the first spread over all. It changes addrs.
func addrRecords(name string, qtype uint16, addrs []netip.Addr) (rrs []dns.RR) {
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	for _, a := range addrs {
		if len(rrs) == maxRecords {
			return rrs
		}
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
// given in wire form and lower case. It is false for a name that has not all labels of an address.
func reverseAddr(s string) (netip.Addr, bool) {
	const suffix4, suffix6 = "\x07in-addr\x04arpa\x00", "\x03ip6\x04arpa\x00"
	// A label may contain the bytes of the suffix, so it is looked for at the start of labels only.
	if rest, ok := cutSuffix(s, suffix4); ok {
		return reverse4(strings.TrimSuffix(rest, "\x00"))
	}
	if rest, ok := cutSuffix(s, suffix6); ok {
		return reverse6(strings.TrimSuffix(rest, "\x00"))
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

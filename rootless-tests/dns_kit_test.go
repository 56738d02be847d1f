package rootlesstests

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// asked is a query as a name server got it.
type asked struct {
	from netip.AddrPort
	id   uint16
	name string
}

// nameServer is a resolver on the internet, or in a host's resolv.conf.
type nameServer struct {
	at netip.AddrPort

	mu     sync.Mutex
	udp    []asked
	silent bool
}

// queries are those that came over UDP up to now.
func (s *nameServer) queries() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.udp)
}

// setSilent makes the server one that is not there: it gets queries and says nothing.
func (s *nameServer) setSilent(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

// serveDNS answers on both transports of an address until the test ends. answer makes the answer's records;
// nil means the A record that address stands for.
func serveDNS(t testing.TB, n *rig.Node, where netip.AddrPort, answer func(reply *dns.Msg, tcp bool)) *nameServer {
	t.Helper()
	if answer == nil {
		answer = func(reply *dns.Msg, _ bool) { answerWith(reply, where.Addr()) }
	}
	s := &nameServer{at: where}
	accept(t, n.ListenTCP(t, where), func(c *net.TCPConn) {
		co := &dns.Conn{Conn: c}
		for {
			q, err := co.ReadMsg()
			if err != nil {
				return
			}
			reply := new(dns.Msg).SetReply(q)
			answer(reply, true)
			if err := co.WriteMsg(reply); err != nil {
				return
			}
		}
	})
	u := n.ListenUDP(t, where)
	if err := errors.Join(u.SetDeadline(time.Time{}), u.SetReadBuffer(4<<20)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.serveUDP(u, answer) })
	t.Cleanup(func() {
		u.Close()
		wg.Wait()
	})
	return s
}

func (s *nameServer) serveUDP(u *net.UDPConn, answer func(reply *dns.Msg, tcp bool)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		q := new(dns.Msg)
		if err != nil || q.Unpack(buf[:n]) != nil || len(q.Question) != 1 {
			continue
		}
		s.mu.Lock()
		s.udp = append(s.udp, asked{from, q.Id, q.Question[0].Name})
		silent := s.silent
		s.mu.Unlock()
		if silent {
			continue
		}
		reply := new(dns.Msg).SetReply(q)
		answer(reply, false)
		if b, err := reply.Pack(); err == nil {
			_, _ = u.WriteToUDPAddrPort(b, from) // the client sees what goes wrong
		}
	}
}

// answerWith puts an address into an answer, whatever its family: the test wants to know who answered.
func answerWith(reply *dns.Msg, a netip.Addr) {
	h := dns.RR_Header{Name: reply.Question[0].Name, Class: dns.ClassINET, Ttl: 60}
	if a.Is4() {
		h.Rrtype = dns.TypeA
		reply.Answer = append(reply.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		return
	}
	h.Rrtype = dns.TypeAAAA
	reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
}

// question is a query for the A record of a name.
func question(name string) *dns.Msg { return new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA) }

// ask sends a query from a node to a server and waits for the answer.
func ask(ctx context.Context, n *rig.Node, network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	c, err := n.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	co := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	if err := co.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		a, err := co.ReadMsg()
		if err != nil || a.Id == q.Id {
			return a, err
		}
	}
}

// resolve asks the sandbox's name server for a name and returns the first address, as text, or the rcode's name.
func resolve(t testing.TB, sb *rig.Sandbox, name string) string {
	t.Helper()
	a, err := ask(rig.Within(t, rig.Patience), sb.Node, "udp", at(rig.DNS4, 53), question(name))
	if err != nil {
		return err.Error()
	}
	return firstAddress(a)
}

// firstAddress is that of an answer, as text, or the rcode's name.
func firstAddress(a *dns.Msg) string {
	if a.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[a.Rcode]
	}
	for _, rr := range a.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			return rr.A.String()
		case *dns.AAAA:
			return rr.AAAA.String()
		}
	}
	return "no address"
}

// unique is a name that nobody has asked for, so that no answer is shared.
func unique() string { return fmt.Sprintf("n%d.example.com", lastPort.Add(1)) }

// dnsFlag is the value of --dns for a server.
func dnsFlag(s *nameServer) string { return s.at.String() }

// writeResolvConf writes H's resolv.conf in place, and puts it back with the test, which is not parallel.
func writeResolvConf(t testing.TB, text string) {
	t.Helper()
	keepResolvConf(t)
	if err := os.WriteFile(rig.ResolvConf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keepResolvConf puts H's resolv.conf back when the test ends.
func keepResolvConf(t testing.TB) {
	t.Helper()
	old, err := os.ReadFile(rig.ResolvConf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A test may have left a symbolic link, which must not be followed.
		if err := errors.Join(os.RemoveAll(rig.ResolvConf), os.WriteFile(rig.ResolvConf, old, 0o644)); err != nil {
			t.Error(err)
		}
	})
}

// framed is a message as TCP carries it.
func framed(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

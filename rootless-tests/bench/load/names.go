package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// nameClients have each one question on the way at a time, from a socket and a thread of their own. They ask as
// fast as they are answered, or, when perSecond is not 0, so often all together, each at its own regular times.
type nameClients struct {
	server    netip.AddrPort
	name      string // an absolute one, asked for its A record
	clients   int
	perSecond int
	window    time.Duration
}

// nameAnswers are what came back, in microseconds each, and what did not.
type nameAnswers struct {
	us   []float64
	lost int
}

// ask runs the clients for the window. An answer that does not have the address is an error: a server that
// refuses is fast.
func (n nameClients) ask() (all nameAnswers, elapsed time.Duration, err error) {
	query, err := packQuery(n.name)
	if err != nil {
		return all, 0, err
	}
	var wg sync.WaitGroup
	each, errs := make([]nameAnswers, n.clients), make([]error, n.clients)
	start := time.Now()
	for i := range n.clients {
		wg.Go(func() { each[i], errs[i] = n.client(i, append([]byte(nil), query...), start) })
	}
	wg.Wait()
	elapsed = time.Since(start)
	for _, a := range each {
		all.us = append(all.us, a.us...)
		all.lost += a.lost
	}
	if err := errors.Join(errs...); err != nil {
		return all, elapsed, err
	}
	if len(all.us) == 0 {
		return all, elapsed, fmt.Errorf("ask %v for %s: no answer came", n.server, n.name)
	}
	return all, elapsed, nil
}

// packQuery is the question in the form of RFC 1035, with recursion desired as resolvers of C libraries have it.
func packQuery(name string) ([]byte, error) {
	var m dns.Msg
	m.SetQuestion(dns.Fqdn(name), dns.TypeA)
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question for %q: %w", name, err)
	}
	return b, nil
}

// client is number i of the clients. query is its own.
func (n nameClients) client(i int, query []byte, start time.Time) (a nameAnswers, err error) {
	s, err := dial(unix.SOCK_DGRAM, n.server)
	if err != nil {
		return a, err
	}
	defer s.close()
	if err := s.setPatience(datagramTimeout); err != nil {
		return a, err
	}
	var interval time.Duration
	if n.perSecond > 0 {
		interval = time.Duration(n.clients) * time.Second / time.Duration(n.perSecond)
	}
	// They do not all ask at the same moment.
	next := start.Add(interval * time.Duration(i) / time.Duration(n.clients))
	answer := make([]byte, dns.DefaultMsgSize)
	end := start.Add(n.window)
	for id := uint16(i) << 8; ; id++ {
		time.Sleep(time.Until(next))
		begin := time.Now()
		// At a pace, a client that is late asks what it has to all the same; one without asks once at least.
		asked := len(a.us) + a.lost
		if interval > 0 && !next.Before(end) || interval == 0 && asked > 0 && !begin.Before(end) {
			return a, nil
		}
		binary.BigEndian.PutUint16(query, id)
		if err := s.write(query); err != nil {
			return a, fmt.Errorf("send question: %w", err)
		}
		switch err := s.readAnswer(answer, id); {
		case err == nil:
			a.us = append(a.us, micros(time.Since(begin)))
		case errors.Is(err, errTimeout):
			a.lost++
		default:
			return a, fmt.Errorf("ask %v for %s: %w", n.server, n.name, err)
		}
		next = next.Add(interval)
	}
}

// readAnswer waits for the answer to question id. Late ones to earlier questions, which count as lost, are passed over.
func (s socket) readAnswer(b []byte, id uint16) error {
	for {
		n, err := s.read(b)
		if err != nil {
			return err
		}
		if n >= dnsHeaderLen && binary.BigEndian.Uint16(b) == id {
			return checkAnswer(b[:n])
		}
	}
}

// dnsHeaderLen is that of RFC 1035 §4.1.1.
const dnsHeaderLen = 12

// checkAnswer looks at the header alone, which costs nothing: the rest is the server's own tests' to read.
func checkAnswer(b []byte) error {
	const response, codeMask = 0x8000, 0xf
	flags, answers := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[6:])
	switch code := int(flags & codeMask); {
	case flags&response == 0:
		return errors.New("the answer is a question")
	case code != dns.RcodeSuccess:
		return fmt.Errorf("the answer is %s", dns.RcodeToString[code])
	case answers == 0:
		return errors.New("the answer has no address")
	}
	return nil
}

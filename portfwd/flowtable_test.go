package portfwd

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/drop"
)

// slowTable is the obvious twin of flowTable: one slice, searched from the front.
type slowTable struct {
	idle            time.Duration
	perGroup, total int
	flows           []*slowFlow // in order of last use
	port            func() uint16
}

type slowFlow struct {
	client   clientKey
	reply    replyKey
	used     time.Time
	answered bool
}

func (s *slowTable) expire(now time.Time) {
	s.flows = slices.DeleteFunc(s.flows, func(f *slowFlow) bool { return now.Sub(f.used) >= s.idle })
}

func (s *slowTable) use(now time.Time, match func(*slowFlow) bool, answered bool) *slowFlow {
	s.expire(now)
	i := slices.IndexFunc(s.flows, match)
	if i < 0 {
		return nil
	}
	f := s.flows[i]
	s.flows = append(slices.Delete(s.flows, i, i+1), f)
	f.used, f.answered = now, f.answered || answered
	return f
}

func (s *slowTable) add(now time.Time, k clientKey, r replyKey) *slowFlow {
	mine := 0
	for _, f := range s.flows {
		if f.client.group == k.group {
			mine++
		}
	}
	if mine >= s.perGroup || len(s.flows) >= s.total {
		i := slices.IndexFunc(s.flows, func(f *slowFlow) bool { return f.client.group == k.group && !f.answered })
		if i < 0 {
			return nil
		}
		s.flows = slices.Delete(s.flows, i, i+1)
	}
	for range portTries {
		if !slices.ContainsFunc(s.flows, func(f *slowFlow) bool { return f.reply == r }) {
			f := &slowFlow{client: k, reply: r, used: now}
			s.flows = append(s.flows, f)
			return f
		}
		r.peer = netip.AddrPortFrom(r.peer.Addr(), s.port())
	}
	return nil
}

// same reports whether both tables found the same flow, or none.
func same(f *flow, s *slowFlow) bool {
	if f == nil || s == nil {
		return f == nil && s == nil
	}
	return f.key == s.client && f.reply == s.reply && (f.state == flowAnswered) == s.answered && f.used.Equal(s.used)
}

// TestFlowTableAgainstTwin does the same random things to both tables under a clock of its own.
func TestFlowTableAgainstTwin(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		// Few ports, so that the search for a free one is put to work and sometimes fails.
		ports := func() func() uint16 {
			r := rand.New(rand.NewPCG(seed, 1))
			return func() uint16 { return uint16(100 + r.IntN(40)) }
		}
		const idle = 300 * time.Second
		table := newFlowTable(idle, 20, 50, ports())
		slow := &slowTable{idle: idle, perGroup: 20, total: 50, port: ports()}
		groups := []*flowGroup{table.addGroup(nil), table.addGroup(nil), table.addGroup(nil), table.addGroup(nil)}
		now := time.Unix(1e9, 0)
		var refused int
		for op := range 5000 {
			now = now.Add(time.Duration(rnd.IntN(4)) * time.Second)
			if rnd.IntN(500) == 0 {
				now = now.Add(idle)
			}
			k := clientKey{
				group:  groups[rnd.IntN(len(groups))],
				client: netip.AddrPortFrom(addr("127.0.0.1"), uint16(100+rnd.IntN(30))),
				local:  netip.AddrFrom4([4]byte{127, 0, 0, byte(rnd.IntN(3))}),
			}
			r := replyKey{container: ap("10.0.2.100:53"), peer: netip.AddrPortFrom(gateway4, k.client.Port())}
			switch rnd.IntN(10) {
			case 0:
				slow.expire(now)
				if n := table.expire(now); n != len(slow.flows) {
					t.Fatalf("seed %d op %d: %d flows left, want %d", seed, op, n, len(slow.flows))
				}
			case 1, 2, 3:
				r.peer = netip.AddrPortFrom(gateway4, uint16(100+rnd.IntN(40)))
				f := table.fromContainer(now, r)
				if s := slow.use(now, func(s *slowFlow) bool { return s.reply == r }, true); !same(f, s) {
					t.Fatalf("seed %d op %d: reply %v found %v, want %v", seed, op, r, f, s)
				}
			default:
				f := table.fromClient(now, k)
				s := slow.use(now, func(s *slowFlow) bool { return s.client == k }, false)
				if !same(f, s) {
					t.Fatalf("seed %d op %d: client %v found %v, want %v", seed, op, k, f, s)
				}
				if f != nil {
					continue
				}
				table.expire(now) // as the twin, which holds nothing that is due
				f, reason := table.add(now, k, r, 0)
				if s := slow.add(now, k, r); !same(f, s) || (f == nil) != (reason != drop.None) {
					t.Fatalf("seed %d op %d: add %v made %v (%v), want %v", seed, op, k, f, reason, s)
				}
				if f == nil {
					refused++
				}
			}
			if table.len() > 50 || len(table.byReply) != table.len() {
				t.Fatalf("seed %d op %d: %d by client, %d by reply", seed, op, table.len(), len(table.byReply))
			}
		}
		for _, g := range groups {
			table.removeGroup(g)
			if f, reason := table.add(now, clientKey{group: g}, replyKey{}, 0); f != nil || reason != drop.SocketError {
				t.Errorf("a flow in a removed group: %v", reason)
			}
		}
		if table.len() != 0 || len(table.byReply) != 0 {
			t.Errorf("seed %d: %d flows left of no group", seed, table.len())
		}
		if seed == 0 && refused == 0 {
			t.Error("the limits were never met; the test is too tame")
		}
	}
}

// TestFlowAnsweredStays: made-up sources push each other out, not a client that is being served.
func TestFlowAnsweredStays(t *testing.T) {
	table := newFlowTable(300*time.Second, 4, 100, randomPort)
	g := table.addGroup(nil)
	now := time.Unix(1e9, 0)
	key := func(port uint16) (clientKey, replyKey) {
		client := netip.AddrPortFrom(addr("198.51.100.7"), port)
		return clientKey{group: g, client: client, local: addr("192.0.2.1")}, replyKey{container: ap("10.0.2.100:53"), peer: client}
	}
	served, reply := key(1)
	table.add(now, served, reply, 0)
	table.fromContainer(now, reply)
	for p := range uint16(1000) {
		k, r := key(1000 + p)
		now = now.Add(time.Millisecond)
		if f, reason := table.add(now, k, r, 0); f == nil {
			t.Fatalf("newcomer %d: %v", p, reason)
		}
	}
	if table.len() != 4 || table.fromClient(now, served) == nil {
		t.Errorf("%d flows, served client found: %v", table.len(), table.fromClient(now, served) != nil)
	}
	if table.fromClient(now.Add(299*time.Second), served) == nil {
		t.Error("forgotten before 300 s")
	}
	if table.fromClient(now.Add(599*time.Second), served) != nil {
		t.Error("remembered after 300 s of silence")
	}
}

func BenchmarkFlowLookup(b *testing.B) {
	table := newFlowTable(300*time.Second, 4096, 4096, randomPort)
	g := table.addGroup(nil)
	now := time.Unix(1e9, 0)
	k := clientKey{group: g, client: ap("198.51.100.7:4000"), local: addr("192.0.2.1")}
	table.add(now, k, replyKey{container: ap("10.0.2.100:53"), peer: k.client}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if table.fromClient(now, k) == nil {
			b.Fatal("lost")
		}
	}
}

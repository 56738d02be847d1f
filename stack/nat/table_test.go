package nat

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usernet/usernet/stack/l2"
)

func container(n byte) (netip.AddrPort, l2.MAC) {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, n}), 5000), l2.MAC{2, 0, 0, 0, 0, n}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// NAT-04, NAT-05, NAT-06: what a flow's lifetime is, to the second.
func TestTableIdle(t *testing.T) {
	for _, row := range []struct {
		name  string
		class idleClass
		sends []time.Duration // after the first, which is at 0
		alive time.Duration
		gone  time.Duration
	}{
		{"silent after one datagram", idleLong, nil, 299 * time.Second, 300 * time.Second},
		{"refreshed every 100 s", idleLong, []time.Duration{100e9, 200e9, 300e9, 400e9, 500e9, 600e9}, 899 * time.Second, 900 * time.Second},
		{"one query to port 53", idleShort, nil, 29 * time.Second, 30 * time.Second},
		{"two queries to port 53", idleShort, []time.Duration{20e9}, 49 * time.Second, 50 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			tb := newTable[int](10, 30*time.Second, 300*time.Second)
			key, owner := container(1)
			e, _ := tb.add(epoch, key, owner, row.class, 1)
			for _, s := range row.sends {
				if x := tb.expire(epoch.Add(s)); x != nil {
					t.Fatalf("expired at %v", s)
				}
				tb.touch(epoch.Add(s), e, row.class)
			}
			if at, ok := tb.next(); !ok || !at.Equal(epoch.Add(row.gone)) {
				t.Errorf("next deadline %v, want %v", at.Sub(epoch), row.gone)
			}
			if tb.expire(epoch.Add(row.alive)) != nil {
				t.Errorf("gone at %v", row.alive)
			}
			if tb.expire(epoch.Add(row.gone)) != e || tb.len() != 0 {
				t.Errorf("still there at %v", row.gone)
			}
			if _, ok := tb.next(); ok {
				t.Error("an empty table has a deadline")
			}
		})
	}
}

func TestTableLeavesShortClassForGood(t *testing.T) {
	tb := newTable[int](10, 30*time.Second, 300*time.Second)
	key, owner := container(1)
	e, _ := tb.add(epoch, key, owner, idleShort, 1)
	tb.touch(epoch.Add(10*time.Second), e, idleLong)
	tb.touch(epoch.Add(20*time.Second), e, idleShort)
	if tb.expire(epoch.Add(319*time.Second)) != nil {
		t.Error("a flow that spoke to another port than 53 got the short timer")
	}
}

// NAT-29: the limit refuses and never evicts, and is each container's own.
func TestTableLimit(t *testing.T) {
	tb := newTable[int](3, time.Second, time.Second)
	add := func(c byte, port uint16) bool {
		key, owner := container(c)
		_, ok := tb.add(epoch, netip.AddrPortFrom(key.Addr(), port), owner, idleLong, int(port))
		return ok
	}
	for port := uint16(1); port <= 4; port++ {
		if got, want := add(1, port), port <= 3; got != want {
			t.Errorf("flow %d of container 1: %v, want %v", port, got, want)
		}
	}
	if !add(2, 1) || !add(2, 2) {
		t.Error("container 2 suffers from container 1")
	}
	for port := uint16(1); port <= 3; port++ {
		key, _ := container(1)
		if e := tb.get(netip.AddrPortFrom(key.Addr(), port)); e == nil || e.value != int(port) {
			t.Errorf("flow %d was evicted", port)
		}
	}
	if tb.expire(epoch.Add(time.Second)) == nil || !add(1, 9) {
		t.Error("an expired flow still counts")
	}
}

// modelFlow is a flow as the requirements speak of it.
type modelFlow struct {
	id      int
	owner   l2.MAC
	short   bool
	lastOut time.Time
	peers   map[netip.Addr]bool
}

// tableModel drives a table and its model with the same traffic.
type tableModel struct {
	tb    *table[*modelled]
	model map[netip.AddrPort]*modelFlow
	now   time.Time
	ids   int
}

// modelled is what the table holds.
type modelled struct {
	id    int
	peers peers
}

const modelLimit, modelShort, modelLong = 3, 30 * time.Second, 300 * time.Second

// FZ-16: random traffic against a model that is a map and a sentence for each requirement. Checked after
// every step: a container's address and port has one flow whatever it sends to (NAT-01), it stays the same
// flow until it expires (NAT-02), no two share one (NAT-03), it lives exactly 300 s or 30 s after the last
// outbound datagram (NAT-04, NAT-05, NAT-06), inbound traffic and errors change nothing (NAT-06, NAT-07),
// replies come from addresses sent to (NAT-08), and the limit refuses without evicting (NAT-29).
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &tableModel{
			tb:    newTable[*modelled](modelLimit, modelShort, modelLong),
			model: map[netip.AddrPort]*modelFlow{}, now: epoch,
		}
		t.Repeat(map[string]func(*rapid.T){"send": m.send, "receive": m.receive, "wait": m.wait, "": m.check})
	})
}

func genKey(t *rapid.T) netip.AddrPort {
	key, _ := container(rapid.Byte().Draw(t, "container") % 3)
	return netip.AddrPortFrom(key.Addr(), 5000+rapid.Uint16Range(0, 4).Draw(t, "port"))
}

func genPeer(t *rapid.T) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, rapid.Byte().Draw(t, "host") % 4}),
		rapid.SampledFrom([]uint16{53, 53, 7000, 7001}).Draw(t, "peer port"))
}

func (m *tableModel) send(t *rapid.T) {
	key, dst := genKey(t), genPeer(t)
	_, owner := container(key.Addr().As4()[3])

	f, mine := m.model[key], 0
	for _, other := range m.model {
		if other.owner == owner {
			mine++
		}
	}
	refused := f == nil && mine >= modelLimit
	if f == nil && !refused {
		m.ids++
		f = &modelFlow{id: m.ids, owner: owner, short: true, peers: map[netip.Addr]bool{}}
		m.model[key] = f
	}
	if f != nil {
		f.lastOut, f.short = m.now, f.short && dst.Port() == 53
		f.peers[dst.Addr()] = true
	}

	e := m.tb.get(key)
	if e != nil {
		m.tb.touch(m.now, e, classOf(dst))
	} else {
		var ok bool
		if e, ok = m.tb.add(m.now, key, owner, classOf(dst), &modelled{id: m.ids}); ok == refused {
			t.Fatalf("%v to %v: added %v, refused by the model %v", key, dst, ok, refused)
		}
	}
	if e != nil {
		e.value.peers.add(dst.Addr())
	}
}

func (m *tableModel) receive(t *rapid.T) {
	key, from := genKey(t), genPeer(t)
	e, f := m.tb.get(key), m.model[key]
	if e != nil && f != nil && e.value.peers.has(from.Addr()) != f.peers[from.Addr()] {
		t.Fatalf("%v from %v: want let in %v", key, from, f.peers[from.Addr()])
	}
}

func (m *tableModel) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
	for e := m.tb.expire(m.now); e != nil; e = m.tb.expire(m.now) {
		if m.tb.get(e.key) != nil {
			t.Fatalf("%v expired and is still mapped", e.key)
		}
	}
	for key, f := range m.model {
		if d := m.now.Sub(f.lastOut); d >= modelLong || f.short && d >= modelShort {
			delete(m.model, key)
		}
	}
}

func (m *tableModel) check(t *rapid.T) {
	if m.tb.len() != len(m.model) {
		t.Fatalf("%d flows, want %d", m.tb.len(), len(m.model))
	}
	var first time.Time
	owners := map[l2.MAC]int{}
	for key, f := range m.model {
		e := m.tb.get(key)
		if e == nil {
			t.Fatalf("%v has no flow, want %d", key, f.id)
		}
		if e.value.id != f.id {
			t.Fatalf("%v has flow %d, want %d", key, e.value.id, f.id)
		}
		owners[f.owner]++
		at := f.lastOut.Add(modelLong)
		if f.short {
			at = f.lastOut.Add(modelShort)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for owner, n := range owners {
		if m.tb.owners[owner] != n {
			t.Fatalf("%v is charged for %d flows, has %d", owner, m.tb.owners[owner], n)
		}
	}
	if len(m.tb.owners) != len(owners) {
		t.Fatalf("%d owners, want %d", len(m.tb.owners), len(owners))
	}
	if at, ok := m.tb.next(); ok != (len(m.model) > 0) || !at.Equal(first) {
		t.Fatalf("next deadline %v, want %v", at, first)
	}
}

// A clock read before the lock may be behind the tail's.
func TestTableClockBehindTail(t *testing.T) {
	tb := newTable[int](10, time.Second, 10*time.Second)
	k1, owner := container(1)
	k2, _ := container(2)
	tb.add(epoch.Add(time.Second), k1, owner, idleLong, 1)
	tb.add(epoch, k2, owner, idleLong, 2)
	for _, want := range []int{1, 2} {
		if e := tb.expire(epoch.Add(11 * time.Second)); e == nil || e.value != want {
			t.Fatalf("expired %+v, want %d", e, want)
		}
	}
}

func TestPeersAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p peers
		var order []netip.Addr // by last send, oldest first
		n := rapid.SampledFrom([]int{4, indexPeers + 1, maxPeers, 2 * maxPeers}).Draw(t, "addresses")
		for range rapid.IntRange(0, 3*maxPeers).Draw(t, "sends") {
			i := rapid.IntRange(0, n-1).Draw(t, "peer")
			a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
			p.add(a)
			for j := range order {
				if order[j] == a {
					order = append(order[:j], order[j+1:]...)
					break
				}
			}
			if order = append(order, a); len(order) > maxPeers {
				if p.has(order[0]) {
					t.Fatalf("%v is remembered beyond the bound", order[0])
				}
				order = order[1:]
			}
		}
		for _, a := range order {
			if !p.has(a) {
				t.Fatalf("%v is forgotten", a)
			}
		}
		if p.has(netip.MustParseAddr("198.51.100.1")) || len(p.list) != len(order) || len(p.list) > maxPeers {
			t.Fatalf("%d peers, want %d", len(p.list), len(order))
		}
	})
}

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
			tb := newTable[int](10, 10, 30*time.Second, 300*time.Second)
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
	tb := newTable[int](10, 10, 30*time.Second, 300*time.Second)
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
	tb := newTable[int](3, 5, time.Second, time.Second)
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
	if add(2, 3) {
		t.Error("the total is not a bound")
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

// FZ-16: random traffic against a model that is a map and a sentence for each requirement. Checked after
// every step: a container's address and port has one flow whatever it sends to (NAT-01), it stays the same
// flow until it expires (NAT-02), no two share one (NAT-03), it lives exactly 300 s or 30 s after the last
// outbound datagram (NAT-04, NAT-05, NAT-06), inbound traffic and errors change nothing (NAT-06, NAT-07),
// replies come from addresses sent to (NAT-08), and the limit refuses without evicting (NAT-29).
func TestTableModel(t *testing.T) {
	const limit, total, short, long = 3, 7, 30 * time.Second, 300 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		type flow struct {
			id    int
			peers peers
		}
		tb := newTable[*flow](limit, total, short, long)
		model := map[netip.AddrPort]*modelFlow{}
		now, ids := epoch, 0
		genKey := rapid.Custom(func(t *rapid.T) netip.AddrPort {
			key, _ := container(rapid.Byte().Draw(t, "container") % 3)
			return netip.AddrPortFrom(key.Addr(), 5000+rapid.Uint16Range(0, 4).Draw(t, "port"))
		})
		genPeer := rapid.Custom(func(t *rapid.T) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, rapid.Byte().Draw(t, "host") % 4}),
				rapid.SampledFrom([]uint16{53, 53, 7000, 7001}).Draw(t, "port"))
		})
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				key, dst := genKey.Draw(t, "from"), genPeer.Draw(t, "to")
				_, owner := container(key.Addr().As4()[3])
				class := classOf(dst)

				m := model[key]
				mine := 0
				for _, f := range model {
					if f.owner == owner {
						mine++
					}
				}
				refused := m == nil && (mine >= limit || len(model) >= total)
				if m == nil && !refused {
					ids++
					m = &modelFlow{id: ids, owner: owner, short: true, peers: map[netip.Addr]bool{}}
					model[key] = m
				}
				if m != nil {
					m.lastOut, m.short = now, m.short && dst.Port() == 53
					m.peers[dst.Addr()] = true
				}

				e := tb.get(key)
				if e != nil {
					tb.touch(now, e, class)
				} else {
					var ok bool
					if e, ok = tb.add(now, key, owner, class, &flow{id: ids}); ok == refused {
						t.Fatalf("%v to %v: added %v, refused by the model %v", key, dst, ok, refused)
					}
				}
				if e != nil {
					e.value.peers.add(dst.Addr())
				}
			},
			"receive": func(t *rapid.T) {
				key, from := genKey.Draw(t, "to"), genPeer.Draw(t, "from")
				e, m := tb.get(key), model[key]
				if e != nil && m != nil && e.value.peers.has(from.Addr()) != m.peers[from.Addr()] {
					t.Fatalf("%v from %v: want let in %v", key, from, m.peers[from.Addr()])
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "seconds")) * time.Second)
				for e := tb.expire(now); e != nil; e = tb.expire(now) {
					if tb.get(e.key) != nil {
						t.Fatalf("%v expired and is still mapped", e.key)
					}
				}
				for key, m := range model {
					if d := now.Sub(m.lastOut); d >= long || m.short && d >= short {
						delete(model, key)
					}
				}
			},
			"": func(t *rapid.T) { checkTable(t, tb, func(f *flow) int { return f.id }, model, short, long) },
		})
	})
}

func checkTable[V any](t *rapid.T, tb *table[V], id func(V) int, model map[netip.AddrPort]*modelFlow, short, long time.Duration) {
	if tb.len() != len(model) {
		t.Fatalf("%d flows, want %d", tb.len(), len(model))
	}
	var first time.Time
	owners := map[l2.MAC]int{}
	for key, m := range model {
		e := tb.get(key)
		if e == nil {
			t.Fatalf("%v has no flow, want %d", key, m.id)
		}
		if id(e.value) != m.id {
			t.Fatalf("%v has flow %d, want %d", key, id(e.value), m.id)
		}
		owners[m.owner]++
		at := m.lastOut.Add(long)
		if m.short {
			at = m.lastOut.Add(short)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for owner, n := range owners {
		if tb.owners[owner] != n {
			t.Fatalf("%v is charged for %d flows, has %d", owner, tb.owners[owner], n)
		}
	}
	if len(tb.owners) != len(owners) {
		t.Fatalf("%d owners, want %d", len(tb.owners), len(owners))
	}
	if at, ok := tb.next(); ok != (len(model) > 0) || !at.Equal(first) {
		t.Fatalf("next deadline %v, want %v", at, first)
	}
}

// A clock read before the lock may be behind the tail's.
func TestTableClockBehindTail(t *testing.T) {
	tb := newTable[int](10, 10, time.Second, 10*time.Second)
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

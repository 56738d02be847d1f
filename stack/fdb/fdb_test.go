package fdb

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usernet/usernet/stack/l2"
)

var epoch = time.Unix(1_000_000, 0)

func mac(n uint32) l2.MAC {
	return l2.MAC{0x02, 0x42, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

func TestLearnAndResolve(t *testing.T) {
	tab := New[int](epoch, Options{})
	if _, ok := tab.Resolve(mac(1)); ok {
		t.Fatal("empty table resolves an address")
	}
	if got := tab.Map(epoch, mac(1), 7, 4); got != Learned {
		t.Fatalf("first Map = %v, want learned", got)
	}
	if got := tab.Map(epoch, mac(1), 7, 4); got != Known {
		t.Fatalf("second Map = %v, want known", got)
	}
	if port, ok := tab.Resolve(mac(1)); !ok || port != 7 {
		t.Fatalf("Resolve = %d, %v; want 7", port, ok)
	}
}

func TestGroupAndZeroAddressesAreNotLearned(t *testing.T) {
	tab := New[int](epoch, Options{})
	for _, m := range []l2.MAC{{}, l2.Broadcast, {0x33, 0x33, 0, 0, 0, 1}} {
		if got := tab.Map(epoch, m, 1, 4); got != Invalid {
			t.Errorf("Map(%v) = %v, want invalid", m, got)
		}
		if err := tab.AddStatic(m, 1); err == nil {
			t.Errorf("AddStatic(%v) succeeded", m)
		}
	}
	if tab.Len() != 0 {
		t.Errorf("%d entries, want 0", tab.Len())
	}
}

// HC-04: a station stays where it is until it has been idle for the timeout.
func TestStationDoesNotMove(t *testing.T) {
	tab := New[int](epoch, Options{Timeout: time.Minute})
	tab.Map(epoch, mac(1), 1, 4)
	if got := tab.Map(epoch.Add(59*time.Second), mac(1), 2, 4); got != Conflict {
		t.Fatalf("Map from another port = %v, want conflict", got)
	}
	if got := tab.Map(epoch.Add(60*time.Second), mac(1), 2, 4); got != Learned {
		t.Fatalf("Map from another port after the timeout = %v, want learned", got)
	}
	if port, _ := tab.Resolve(mac(1)); port != 2 {
		t.Fatalf("Resolve = %d, want 2", port)
	}
}

// HC-07: 100 000 source addresses from one port leave its limit of entries and do not disturb others.
func TestMACFlood(t *testing.T) {
	tab := New[int](epoch, Options{})
	tab.Map(epoch, mac(0xffff_ff00), 2, 4)
	full := 0
	for i := range uint32(100_000) {
		if tab.Map(epoch.Add(time.Duration(i)*time.Millisecond), mac(i), 1, 4) == PortFull {
			full++
		}
	}
	if tab.Len() != 5 || full != 100_000-4 {
		t.Fatalf("%d entries and %d refusals, want 5 and %d", tab.Len(), full, 100_000-4)
	}
	if port, ok := tab.Resolve(mac(0xffff_ff00)); !ok || port != 2 {
		t.Fatal("the neighbour's entry is gone")
	}
}

func TestFullTableRefuses(t *testing.T) {
	tab := New[int](epoch, Options{Max: 2, Timeout: time.Minute})
	tab.Map(epoch, mac(1), 1, 4)
	tab.Map(epoch.Add(time.Second), mac(2), 2, 4)
	if got := tab.Map(epoch.Add(2*time.Second), mac(3), 3, 4); got != TableFull {
		t.Fatalf("Map into a full table = %v, want table-full", got)
	}
	// Room is made by age only.
	if got := tab.Map(epoch.Add(time.Minute), mac(3), 3, 4); got != Learned {
		t.Fatalf("Map after the first entry expired = %v, want learned", got)
	}
	if _, ok := tab.Resolve(mac(1)); ok {
		t.Fatal("the expired entry is still there")
	}
}

func TestStaticEntries(t *testing.T) {
	tab := New[int](epoch, Options{Timeout: time.Minute})
	tab.Map(epoch, mac(1), 9, 4)
	if err := tab.AddStatic(mac(1), 1); err != nil {
		t.Fatal(err)
	}
	if port, _ := tab.Resolve(mac(1)); port != 1 {
		t.Fatal("a dynamic entry stood in the way of a static one")
	}
	if err := tab.AddStatic(mac(1), 2); err == nil {
		t.Fatal("AddStatic of an address in use on another port succeeded")
	}
	if got := tab.Map(epoch.Add(time.Hour), mac(1), 2, 4); got != Conflict {
		t.Fatalf("Map of another port's static address = %v, want conflict", got)
	}
	if n := tab.Age(epoch.Add(time.Hour)); n != 0 {
		t.Fatalf("Age dropped %d static entries", n)
	}
	if !tab.DeleteStatic(mac(1)) || tab.DeleteStatic(mac(1)) {
		t.Fatal("DeleteStatic must report the entry once")
	}
	if tab.Len() != 0 {
		t.Fatal("entry left")
	}
}

func TestDetachPort(t *testing.T) {
	tab := New[int](epoch, Options{})
	tab.Map(epoch, mac(1), 1, 4)
	tab.Map(epoch, mac(2), 1, 4)
	tab.Map(epoch, mac(3), 2, 4)
	if err := tab.AddStatic(mac(4), 1); err != nil {
		t.Fatal(err)
	}
	if n := tab.DetachPort(1); n != 3 {
		t.Fatalf("DetachPort = %d, want 3", n)
	}
	if n := tab.DetachPort(1); n != 0 {
		t.Fatalf("second DetachPort = %d, want 0", n)
	}
	if _, ok := tab.Resolve(mac(3)); !ok || tab.Len() != 1 {
		t.Fatal("DetachPort touched another port")
	}
}

// The table agrees with its slow twin over random histories.
func TestAgainstSlowTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const timeout = 10 * time.Second
		limits := Options{Max: rapid.IntRange(1, 12).Draw(t, "max"), Timeout: timeout}
		fast, slow := New[int](epoch, limits), &slowTable{max: limits.Max, timeout: timeout}
		macs := rapid.Map(rapid.Uint32Range(0, 15), func(n uint32) l2.MAC {
			if n == 0 {
				return l2.MAC{}
			}
			return mac(n)
		})
		ports := rapid.IntRange(1, 4)
		now := epoch
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				for n := range uint32(16) {
					gotPort, gotOK := fast.Resolve(mac(n))
					wantPort, wantOK := slow.resolve(mac(n))
					if gotPort != wantPort || gotOK != wantOK {
						t.Fatalf("Resolve(%v) = %d, %v; want %d, %v", mac(n), gotPort, gotOK, wantPort, wantOK)
					}
				}
				if fast.Len() != len(slow.list) {
					t.Fatalf("Len = %d, want %d", fast.Len(), len(slow.list))
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 8000).Draw(t, "ms")) * time.Millisecond)
			},
			"map": func(t *rapid.T) {
				m, p, limit := macs.Draw(t, "mac"), ports.Draw(t, "port"), rapid.IntRange(0, 5).Draw(t, "limit")
				if got, want := fast.Map(now, m, p, limit), slow.mapTo(now, m, p, limit); got != want {
					t.Fatalf("Map(%v, %d, limit %d) = %v, want %v", m, p, limit, got, want)
				}
			},
			"static": func(t *rapid.T) {
				m, p := macs.Draw(t, "mac"), ports.Draw(t, "port")
				if err, want := fast.AddStatic(m, p), slow.addStatic(m, p); (err == nil) != want {
					t.Fatalf("AddStatic(%v, %d) = %v, want success %v", m, p, err, want)
				}
			},
			"delete": func(t *rapid.T) {
				m := macs.Draw(t, "mac")
				want := slow.keep(func(e slowEntry) bool { return e.mac != m || !e.static }) == 1
				if got := fast.DeleteStatic(m); got != want {
					t.Fatalf("DeleteStatic(%v) = %v, want %v", m, got, want)
				}
			},
			"detach": func(t *rapid.T) {
				p := ports.Draw(t, "port")
				want := slow.keep(func(e slowEntry) bool { return e.port != p })
				if got := fast.DetachPort(p); got != want {
					t.Fatalf("DetachPort(%d) = %d, want %d", p, got, want)
				}
			},
			"age": func(t *rapid.T) {
				if got, want := fast.Age(now), slow.age(now); got != want {
					t.Fatalf("Age = %d, want %d", got, want)
				}
			},
		})
	})
}

// Readers see whole tables while writers change them; run with -race.
func TestConcurrentUse(t *testing.T) {
	tab := New[int](epoch, Options{Max: 64, Timeout: time.Millisecond})
	var wg sync.WaitGroup
	for port := range 4 {
		wg.Go(func() {
			for i := range uint32(2000) {
				now := epoch.Add(time.Duration(i) * 10 * time.Microsecond)
				tab.Map(now, mac(i%32), port, 8)
				if p, ok := tab.Resolve(mac(i % 32)); ok && (p < 0 || p > 3) {
					t.Errorf("Resolve = %d, which is no port", p)
				}
				if i%100 == 0 {
					tab.DetachPort(port)
					tab.Age(now)
				}
			}
		})
	}
	wg.Wait()
	for port := range 4 {
		tab.DetachPort(port)
	}
	if tab.Len() != 0 {
		t.Errorf("%d entries left after all ports were detached", tab.Len())
	}
}

func TestAllocs(t *testing.T) {
	tab := New[int](epoch, Options{})
	tab.Map(epoch, mac(1), 1, 4)
	now := epoch
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Second)
		tab.Map(now, mac(1), 1, 4)
		tab.Map(now, mac(1), 2, 4) // conflict
		tab.Resolve(mac(1))
		tab.Resolve(mac(2))
	}); n != 0 {
		t.Errorf("Map of a known address and Resolve allocate %v times, want 0", n)
	}
}

// BenchmarkResolve asks from several goroutines at once.
func BenchmarkResolve(b *testing.B) {
	tab := New[int](epoch, Options{})
	for i := range uint32(64) {
		tab.Map(epoch, mac(i), int(i), 4)
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := uint32(0); pb.Next(); i++ {
			tab.Resolve(mac(i % 64))
		}
	})
}

func BenchmarkFind(b *testing.B) {
	tab := New[int](epoch, Options{})
	for i := range uint32(64) {
		tab.Map(epoch, mac(i), int(i), 4)
	}
	for i := uint32(0); b.Loop(); i++ {
		tab.Resolve(mac(i % 64))
	}
}

// What a refused frame of a MAC flood costs in a full table.
func BenchmarkMapPortFull(b *testing.B) {
	tab := New[int](epoch, Options{})
	for i := range uint32(DefaultMax - 4) {
		tab.Map(epoch, mac(1<<24|i), int(i), 4)
	}
	for i := range uint32(4) {
		tab.Map(epoch, mac(i), -1, 4)
	}
	for i := uint32(0); b.Loop(); i++ {
		tab.Map(epoch.Add(time.Minute), mac(2<<24|i), -1, 4)
	}
}

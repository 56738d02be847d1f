package nat

import (
	"net/netip"
	"testing"
	"time"
)

// What a batch remembers of its last flow ends with the flow, and does not keep it in a class it has left.
func TestBatchRemembersFlow(t *testing.T) {
	n := testNetwork()
	u := NewUDP(Env{Emit: &counter{}}, mustPolicy(t, n, nil), n)
	defer u.Close()
	p := datagram{from: a1, to: "203.0.113.1:53"}.packet(t)
	key := netip.MustParseAddrPort(a1)
	flow := func(c idleClass) *flow { return u.s.flow(p, key, c, false) }
	class := func() idleClass {
		u.s.mu.Lock()
		defer u.s.mu.Unlock()
		return u.s.table.get(key).class
	}
	remembers := func() bool {
		u.s.mu.Lock()
		defer u.s.mu.Unlock()
		return u.s.hot != nil
	}

	f := flow(idleShort)
	for range 2 { // looked up, and remembered
		if flow(idleShort) != f {
			t.Fatal("a second flow for one key")
		}
	}
	if flow(idleLong) != f || class() != idleLong {
		t.Errorf("the flow speaks to another port than 53 and is of class %v", class())
	}
	if flow(idleLong) != f {
		t.Fatal("a second flow for one key")
	}
	dead, _ := u.s.collect(time.Now().Add(2 * udpIdle))
	for _, f := range dead {
		f.close(u.s)
	}
	if g := flow(idleLong); len(dead) != 1 || g == f || g == nil {
		t.Errorf("%d flows expired, and the batch goes on with one of them: %v", len(dead), g == f)
	}
	u.Flush()
	if remembers() {
		t.Error("the end of a batch remembers it")
	}
}

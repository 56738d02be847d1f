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

	f := flow(idleShort)
	if flow(idleShort) != f || flow(idleShort) != f {
		t.Fatal("a second flow for one key")
	}
	if flow(idleLong) != f || u.s.table.get(key).class != idleLong {
		t.Errorf("the flow speaks to another port than 53 and is of class %v", u.s.table.get(key).class)
	}
	if flow(idleLong) != f || u.s.hot == nil {
		t.Fatal("the flow is not remembered")
	}
	dead, _ := u.s.collect(time.Now().Add(2 * udpIdle))
	for _, f := range dead {
		f.close(u.s)
	}
	if g := flow(idleLong); len(dead) != 1 || g == f || g == nil {
		t.Errorf("%d flows expired, and the batch goes on with one of them: %v", len(dead), g == f)
	}
	u.Flush()
	if u.s.hot != nil || !u.s.clock.IsZero() {
		t.Error("the end of a batch remembers it")
	}
}

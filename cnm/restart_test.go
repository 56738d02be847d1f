package cnm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/cnm/cnmtest"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/cnm/store"
	"github.com/usernet/usernet/portfwd"
)

var errDisk = errors.New("no space left on device")

func newRigNamespace() *cnmtest.Namespace { return cnmtest.NewNamespace() }

// restart ends the daemon and its datapath as a kill does, and starts the next ones.
func (r *rig) restart() {
	r.t.Helper()
	r.c.Close()
	r.dp = cnmtest.NewDatapath()
	r.start()
}

// kept are duplicates of the sockets, as a shim has them.
func (b *box) kept(t *testing.T) (ls []portfwd.Listener) {
	t.Helper()
	for _, l := range b.bound {
		f, err := dupFile(l.File)
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, portfwd.Listener{Spec: l.Spec, File: f})
	}
	return ls
}

// rejoin does what a shim does that finds a new daemon.
func (r *rig) rejoin(b *box, ls []portfwd.Listener) (*box, error) {
	next, err := r.takeOver(b, ls)
	if err != nil {
		return nil, err
	}
	return next, next.attach()
}

// takeOver is rejoin but for the TAPs.
func (r *rig) takeOver(b *box, ls []portfwd.Listener) (*box, error) {
	info := Rejoin{PID: 4711}
	for _, ep := range b.endpoints {
		if slices.ContainsFunc(b.ns.Links(), func(l plumb.Link) bool { return l.EndpointID == ep.id }) {
			info.Endpoints = append(info.Endpoints, RejoinEndpoint{Config: ep.conf, NetworkID: ep.net.id, Link: ep.link})
		}
	}
	next := &box{ns: b.ns}
	var err error
	if next.Sandbox, err = r.c.Rejoin(context.Background(), b.conf, info, ls, b.ns); err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { next.Close() })
	return next, nil
}

// TestRejoin is FT-02 and FT-21 as far as control goes: after a kill everything is as it was, and in between nobody
// gets what is in use.
func TestRejoin(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.create("n2", "10.2.0.0/24")
	s := sandboxConf("c1", "n1", "n2")
	s.Publish = []portfwd.Spec{local(0, 80)}
	b := r.run(s)
	r.settled()
	info, _ := r.c.Sandbox("c1")
	ls := b.kept(t)
	r.restart()
	r.check()
	n, _ := r.c.Network("n1")
	if len(n.Endpoints) != 1 || n.Endpoints[0].SandboxID != "" || n.Endpoints[0].SandboxName != "c1" {
		t.Errorf("before it comes back its leg is %+v", n.Endpoints)
	}
	early := r.run(sandboxConf("c2", "n1"))
	if early.leg("n1").Addr4 != netip.MustParsePrefix("10.1.0.3/24") {
		t.Errorf("another got %v", early.leg("n1").Addr4)
	}
	wantErr(t, "connect", r.c.Connect(context.Background(), "c1", EndpointConfig{Network: "bridge"}), fault.Unavailable,
		"container c1 is coming back to a new daemon; try again")
	next, err := r.rejoin(b, ls)
	if err != nil {
		t.Fatal(err)
	}
	r.settled()
	r.check(next, early)
	got, _ := r.c.Sandbox("c1")
	if !slices.Equal(got.Ports, info.Ports) || got.PID != 4711 || len(r.leads(next)) != 1 {
		t.Errorf("ports %v, pid %d, leading to %v", got.Ports, got.PID, r.leads(next))
	}
	for i, e := range got.Endpoints {
		was := info.Endpoints[i]
		if e.ID != was.ID || e.Addr4 != was.Addr4 || e.MAC != was.MAC || e.Interface != was.Interface {
			t.Errorf("leg %+v was %+v", e, was)
		}
	}
	r.connect("c1", "bridge") // it is a sandbox as any other
	r.check(next)
}

// TestFT02HungShims: some shims do not answer when a new daemon asks for changes, because what is in their sandboxes is
// stopped. Neither their own return nor the others wait for them, and they can be ended.
func TestFT02HungShims(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.create("n2", "10.2.0.0/24")
	var all []*box
	for i := range 20 {
		all = append(all, r.run(sandboxConf(fmt.Sprintf("c%d", i), "n1", "n2")))
	}
	r.settled()
	r.restart()
	begin := time.Now()
	var next []*box
	for i, b := range all {
		if i%4 == 0 {
			b.ns.Hang()
		}
		b, err := r.takeOver(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.c.mu.Lock()
		busy := b.syncing || len(b.op) > 0
		r.c.mu.Unlock()
		if busy {
			t.Fatal("it is asked for changes before its TAPs are attached")
		}
		if err := b.attach(); err != nil {
			t.Fatal(err)
		}
		next = append(next, b)
	}
	for i, b := range next {
		if i%4 == 0 {
			continue
		}
		r.create(fmt.Sprint("more", i), "")
		r.connect(b.conf.Name, fmt.Sprint("more", i))
		r.disconnect("n2", b.conf.Name)
	}
	for i, b := range next {
		if i%4 == 0 {
			b.Close()
		}
	}
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("it took %v: somebody waited for a shim that does not answer", took)
	}
	r.settled()
	r.check(slices.DeleteFunc(next, func(b *box) bool { return b.state == closed })...)
}

// TestRejoinWithoutLease: a store that lost the lease still gives the same leg, unless somebody else has the address.
func TestRejoinWithoutLease(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	b, c := r.run(sandboxConf("c1", "n1")), r.run(sandboxConf("c2", "n1"))
	for _, id := range []string{b.leg("n1").ID, c.leg("n1").ID} {
		if err := r.store.Delete(store.Endpoints, id); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	next, err := r.rejoin(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.run(sandboxConf("thief", "n1"))
	_, err = r.rejoin(b, nil)
	wantErr(t, "taken", err, fault.Forbidden, "take over container c1: Address already in use")
	r.settled()
	r.check(next)
}

// TestRejoinRefused: what cannot be taken over in full stays aside, and the shim may try again.
func TestRejoinRefused(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.create("n2", "10.2.0.0/24")
	b := r.run(sandboxConf("c1", "n1", "n2"))
	r.restart()
	lost, err := r.c.find("n2")
	if err != nil {
		t.Fatal(err)
	}
	b.endpoints[1].net = &network{id: idOf("n2")} // as if it had been made in a store that is gone
	_, err = r.rejoin(b, nil)
	wantErr(t, "unknown network", err, fault.NotFound, "take over container c1: network "+idOf("n2")+" not found")
	r.check()
	if n, _ := r.c.Network("n1"); len(n.Endpoints) != 1 || n.Endpoints[0].SandboxID != "" {
		t.Errorf("n1 has %+v", n.Endpoints)
	}
	b.endpoints[1].net = lost
	next, err := r.rejoin(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.settled()
	r.check(next)
}

// TestJoinAgain: a daemon that is killed while a sandbox joins leaves leases of which the shim never heard; it joins the
// next daemon as it is, and finds nothing in its way.
func TestJoinAgain(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	s := sandboxConf("c1", "n1")
	r.setAlive(s.ID, true)
	if _, _, err := r.c.Join(context.Background(), s, newRigNamespace()); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if n := len(r.c.orphans()); n != 1 {
		t.Fatalf("%d legs wait for it", n)
	}
	b := r.run(s)
	if got := b.leg("n1").Addr4; got != netip.MustParsePrefix("10.1.0.2/24") {
		t.Errorf("it got %v", got)
	}
	r.settled()
	r.check(b)
}

// TestRejoinPortTaken: a port that was not kept and that somebody else took meanwhile costs the port, not the legs; and
// that a sandbox was there all along is no news.
func TestRejoinPortTaken(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	s := sandboxConf("c1", "n1")
	thief, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(thief.Addr().(*net.TCPAddr).Port)
	thief.Close()
	s.Publish = []portfwd.Spec{local(port, 80)}
	b := r.run(s)
	r.settled()
	r.restart()
	if thief, err = net.Listen("tcp", thief.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	var heard []string
	defer r.c.Subscribe(func(e Event) { heard = append(heard, e.Action) })()
	next, err := r.rejoin(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.settled()
	if len(next.Ports()) != 0 || len(heard) != 0 {
		t.Errorf("ports %v, events %v", next.Ports(), heard)
	}
	r.connect("c1", "bridge") // nothing stands in the way of what comes
	r.check(next)
}

// TestRejoinHostile: of a leg whose lease is lost the shim's word is all there is. It is taken only for what could have
// been given.
func TestRejoinHostile(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	b := r.run(sandboxConf("c1", "n1"))
	if err := r.store.Delete(store.Endpoints, b.leg("n1").ID); err != nil {
		t.Fatal(err)
	}
	r.restart()
	honest := *b.endpoints[0]
	id := shortID(honest.id)
	for text, lie := range map[string]func(*endpoint){
		"endpoint " + id + ": invalid link local IP address: 10.1.0.1": func(ep *endpoint) {
			ep.link.LinkLocal = []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}
		},
		"invalid endpoint settings:\ninvalid alias \"a b\": want one word of at most 253 bytes": func(ep *endpoint) {
			ep.conf.Aliases = []string{"a b"}
		},
		"no configured subnet contains IP address 10.2.0.9": func(ep *endpoint) {
			ep.link.Addr4 = netip.MustParsePrefix("10.2.0.9/24")
		},
	} {
		liar := honest
		lie(&liar)
		b.endpoints[0] = &liar
		_, err := r.rejoin(b, nil)
		wantErr(t, "rejoin", err, fault.Invalid, "take over container c1: "+text)
		r.check()
	}
	b.endpoints[0] = &honest
	next, err := r.rejoin(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.settled()
	r.check(next)
}

// TestRejoinBesideRemove: Networks come and go while sandboxes come back (run with -race).
func TestRejoinBesideRemove(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	b := r.run(sandboxConf("c1", "n1"))
	if err := r.store.Delete(store.Endpoints, b.leg("n1").ID); err != nil {
		t.Fatal(err)
	}
	r.restart()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			id, _, err := r.c.Create(context.Background(), NetworkConfig{Name: "other"})
			if err == nil {
				err = r.c.Remove(context.Background(), id)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	var err error
	for range 50 {
		var next *box
		if next, err = r.rejoin(b, nil); err != nil {
			break
		}
		next.Close()
	}
	close(done)
	wg.Wait()
	if err != nil {
		t.Error(err)
	}
}

// TestReboot is FT-12: nobody lives, so nothing is in use.
func TestReboot(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.run(sandboxConf("c1", "n1"))
	r.run(sandboxConf("c2"))
	r.alive = make(map[string]bool)
	r.restart()
	r.check()
	if n := r.store.Len(store.Endpoints); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	if got := r.run(sandboxConf("c3", "n1")).leg("n1").Addr4; got != netip.MustParsePrefix("10.1.0.2/24") {
		t.Errorf("the first address is not free: got %v", got)
	}
}

// TestForce is FT-15 and C-di2: a leg of a sandbox that does not come back goes by its name, not by its id.
func TestForce(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.create("n1", "10.1.0.0/24")
	b := r.run(sandboxConf("c1", "n1"))
	r.restart()
	if err := r.c.Remove(ctx, "n1"); fault.KindOf(err) != fault.Forbidden {
		t.Errorf("a network in use was removed: %v", err)
	}
	wantErr(t, "without force", r.c.Disconnect(ctx, "n1", "c1", false), fault.NotFound, "No such container: c1")
	wantErr(t, "by id", r.c.Disconnect(ctx, "n1", b.conf.ID, true), fault.NotFound, "No such container: "+b.conf.ID)
	if err := r.c.Disconnect(ctx, "n1", "c1", true); err != nil {
		t.Error(err)
	}
	r.check()
	if err := r.c.Remove(ctx, "n1"); err != nil {
		t.Error(err)
	}
}

// TestOrphanDies: one whose shim dies before it comes back frees its addresses within seconds (LU-20).
func TestOrphanDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create("n1", "10.1.0.0/24")
		b := r.run(sandboxConf("c1", "n1"))
		r.restart()
		synctest.Wait()
		r.setAlive(b.conf.ID, false)
		begin := time.Now()
		for len(r.c.orphans()) > 0 && time.Since(begin) < 5*time.Second {
			<-time.After(100 * time.Millisecond)
			synctest.Wait()
		}
		if n := len(r.c.orphans()); n != 0 {
			t.Errorf("%d legs are held after 5 s", n)
		}
		r.check()
	})
}

// TestShutdown: a daemon that ends leaves its sandboxes what they have.
func TestShutdown(t *testing.T) {
	r := newRig(t)
	b := r.run(sandboxConf("c1"))
	r.settled()
	r.c.Close()
	b.Close() // the connection to its shim ends with the daemon
	if n := r.store.Len(store.Endpoints); n != 1 {
		t.Errorf("%d leases are left, want that of the living sandbox", n)
	}
	if _, _, err := r.c.Join(context.Background(), sandboxConf("c2"), newRigNamespace()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("joined a closed controller: %v", err)
	}
}

// TestBadRecords: records nobody can read cost their own Networks and nothing else.
func TestBadRecords(t *testing.T) {
	r := newRig(t)
	id := r.create("n1", "10.1.0.0/24")
	for key, v := range map[string]any{idOf("a"): "text", idOf("b"): map[string]any{"config": nil}, idOf("c"): 7} {
		if err := r.store.Put(store.Networks, key, v); err != nil {
			t.Fatal(err)
		}
		if err := r.store.Put(store.Endpoints, key, v); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	if n, err := r.c.Network("n1"); err != nil || n.ID != id || len(r.c.Networks()) != 4 {
		t.Errorf("Network = %v, %v of %d", n.ID, err, len(r.c.Networks()))
	}
}

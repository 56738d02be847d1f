package datapath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// adoptable starts a process with a Socket, a Network and an Endpoint.
func adoptable(t *testing.T, change ...func(*Config)) (*Process, Config) {
	t.Helper()
	// Not t.TempDir, whose name may be too long for the address of a socket.
	dir, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := testConfig(tempFile(t))
	cfg.Socket = filepath.Join(dir, "datapath.sock")
	for _, c := range change {
		c(&cfg)
	}
	p, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if _, err := p.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, cfg
}

// furnish gives it a Network and an Endpoint.
func furnish(t *testing.T, p *Process) {
	t.Helper()
	for _, r := range []Request{AddNetwork(spec.Network{ID: "n"}, nil), Attach("n", spec.Endpoint{ID: "e"}, tempFile(t), tap.Info{})} {
		if err := p.Do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func adopt(t *testing.T, cfg Config) (*Process, *Inventory) {
	t.Helper()
	p, inv, err := Adopt(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p, inv
}

// FT-21: a process whose control has gone serves the next one, and that one's successor, and is ended by it.
func TestAdoption(t *testing.T) {
	first, cfg := adoptable(t)
	if fi, err := os.Stat(cfg.Socket); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi, err)
	}
	furnish(t, first)
	first.Leave()
	second, inv := adopt(t, cfg)
	if second.PID() != first.PID() {
		t.Errorf("process %d was adopted, %d was left", second.PID(), first.PID())
	}
	if inv.Len() != 2 {
		t.Errorf("it holds %d things, want a network and an endpoint", inv.Len())
	}
	if _, err := second.Stats(t.Context(), "n"); err != nil {
		t.Error(err)
	}
	second.Leave()
	third, _ := adopt(t, cfg)
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	<-first.Done()
	if err := first.Err(); err != nil {
		t.Errorf("the process's end: %v", err)
	}
	if _, _, err := Adopt(t.Context(), cfg); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("adopt an ended process: %v", err)
	}
	os.Remove(cfg.Socket)
	if _, _, err := Adopt(t.Context(), cfg); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopt without a socket: %v", err)
	}
}

// What is adopted can be killed, and its death is seen.
func TestAdoptedIsKilled(t *testing.T) {
	first, cfg := adoptable(t)
	furnish(t, first)
	first.Leave()
	second, _ := adopt(t, cfg)
	if err := syscall.Kill(second.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-second.Done()
	second.Kill()
	if err := second.Do(t.Context(), HostChanged()); !errors.Is(err, ErrGone) {
		t.Errorf("request to an ended process: %v", err)
	}
}

// Nobody waits for a control forever, and not at all when there is no Endpoint.
func TestNobodyAdopts(t *testing.T) {
	p, _ := adoptable(t, func(c *Config) { c.adoptionWait = time.Millisecond })
	furnish(t, p)
	p.Leave()
	<-p.Done()
	q, _ := adoptable(t)
	q.Leave()
	<-q.Done()
	if err := q.Err(); err != nil {
		t.Error(err)
	}
}

// There is one control at a time: a second one is answered when the first is gone.
func TestSecondControlWaits(t *testing.T) {
	first, cfg := adoptable(t)
	furnish(t, first)
	second, err := connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Kill)
	answered := make(chan error, 1)
	go func() { _, err := second.Hello(t.Context()); answered <- err }()
	if err := first.Do(t.Context(), HostChanged()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-answered:
		t.Errorf("two controls at once: %v", err)
	default:
	}
	first.Leave()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// A control that gives up while it adopts leaves the process to the next.
func TestAdoptionGivenUp(t *testing.T) {
	first, cfg := adoptable(t)
	furnish(t, first)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, _, err := Adopt(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("adopt: %v", err)
	}
	first.Leave()
	adopt(t, cfg)
}

// A process of another binary is ended.
func TestOtherBinary(t *testing.T) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(exe, b, 0o700); err != nil {
		t.Fatal(err)
	}
	first, cfg := adoptable(t, func(c *Config) { c.Exe = exe })
	furnish(t, first)
	first.Leave()
	if _, _, err := Adopt(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another binary") {
		t.Errorf("adopt: %v", err)
	}
	<-first.Done()
}

// LU-04: other users are refused, and the process goes on waiting for its own.
func TestOtherUserRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	f, err := bindSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(fd, 10*time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.l.Close()
	d.uid++
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next := make(chan error, 1)
	go func() { _, err := d.next(); next <- err }()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("another user reads %d, %v", n, err)
	}
	d.l.SetDeadline(time.Now())
	if err := <-next; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wait for control: %v", err)
	}
}

func TestSocketThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file: "not a socket",
		"/" + strings.Repeat("x", sys.MaxSocketPath): "longer than 107 bytes",
		"/nonexistent/socket":                        "no such file",
	} {
		if _, err := Start(Config{Args: []string{"usernet"}, Socket: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// An inventory has as many messages as it takes.
func TestInventoryInPages(t *testing.T) {
	l := newLoop(t)
	l.add(t, "n")
	f := tempFile(t)
	for i := range 2*pageEntries + 1 {
		if err := l.Do(t.Context(), Attach("n", spec.Endpoint{ID: fmt.Sprintf("%064d", i)}, f, tap.Info{})); err != nil {
			t.Fatal(err)
		}
	}
	inv, err := l.adopt(t.Context())
	if err != nil || inv.Len() != 2*pageEntries+2 {
		t.Errorf("%d things, %v", inv.Len(), err)
	}
	for _, after := range []int{-1, 1000} {
		if err := l.call(t.Context(), kindInventory, inventoryRequest{after}, nil, nil); err == nil {
			t.Errorf("after %d: no error", after)
		}
	}
}

// What a process holds that TestClaim and TestInventory speak of.
var (
	heldPrefix   = netip.MustParsePrefix("10.0.0.0/24")
	heldNetwork  = spec.Network{ID: "n", MTU: 1500}
	heldEndpoint = spec.Endpoint{ID: "e", Names: []string{"web"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	heldPort     = portfwd.Spec{Proto: portfwd.TCP, Port: 80}
)

func someHeld() *Inventory {
	l := newLedger()
	l.add(entry{key: prefixKey(heldPrefix)})
	l.add(addNetworkRequest{Network: heldNetwork}.entry())
	l.add(attachRequest{Network: "n", Endpoint: heldEndpoint}.entry())
	l.add(publishRequest{Network: "n", ID: "p", Spec: heldPort, Endpoint: "e"}.entry())
	return newInventory(sorted(l.entries, func(entry) bool { return true }))
}

// FT-21: what each request needs when a process holds a Network with an Endpoint and a port already.
func TestClaim(t *testing.T) {
	n, e, s := heldNetwork, heldEndpoint, heldPort
	renamed, moved, heir := e, e, e
	renamed.Names = []string{"db"}
	moved.Strict = true
	heir.ID = "f"
	for name, c := range map[string]struct {
		ask    []Request
		before string // of the last
		there  bool
		rest   string
	}{
		"network":         {[]Request{AddNetwork(n, nil)}, "", true, "unpublish n/p, detach n/e, release"},
		"other network":   {[]Request{AddNetwork(spec.Network{ID: "n"}, nil)}, "remove-network n", false, "release"},
		"new network":     {[]Request{AddNetwork(spec.Network{ID: "m"}, nil)}, "", false, "unpublish n/p, detach n/e, remove-network n, release"},
		"endpoint":        {[]Request{AddNetwork(n, nil), Attach("n", e, nil, tap.Info{})}, "", true, "unpublish n/p, release"},
		"view":            {[]Request{AddNetwork(n, nil), Attach("n", renamed, nil, tap.Info{})}, "update n/e", true, "unpublish n/p, release"},
		"other endpoint":  {[]Request{AddNetwork(n, nil), Attach("n", moved, nil, tap.Info{})}, "unpublish n/p, detach n/e", false, "release"},
		"heir of address": {[]Request{AddNetwork(n, nil), Attach("n", heir, nil, tap.Info{})}, "unpublish n/p, detach n/e", false, "release"},
		"port":            {[]Request{AddNetwork(n, nil), Attach("n", e, nil, tap.Info{}), Publish("n", "p", s, nil, "e")}, "", true, "release"},
		"other port":      {[]Request{AddNetwork(n, nil), Attach("n", e, nil, tap.Info{}), Publish("n", "p", s, nil, "f")}, "unpublish n/p", false, "release"},
		"detach":          {[]Request{AddNetwork(n, nil), Attach("n", e, nil, tap.Info{}), Detach("n", "e")}, "unpublish n/p", false, "release"},
		"remove too soon": {[]Request{AddNetwork(n, nil), RemoveNetwork("n")}, "", true, "unpublish n/p, detach n/e, remove-network n, release"},
		"remove":          {[]Request{AddNetwork(n, nil), Attach("n", e, nil, tap.Info{}), RemoveNetwork("n")}, "", false, "release"},
		"no claim":        {[]Request{HostChanged()}, "", false, "unpublish n/p, detach n/e, remove-network n, release"},
	} {
		t.Run(name, func(t *testing.T) {
			inv := someHeld()
			var before []Request
			var there bool
			for _, r := range c.ask {
				before, there = inv.Claim(r)
			}
			if got := list(before); got != c.before || there != c.there {
				t.Errorf("before: %q, there %v; want %q, %v", got, there, c.before, c.there)
			}
			if got := list(inv.Rest()); got != c.rest {
				t.Errorf("rest: %q, want %q", got, c.rest)
			}
			if inv.Len() != 0 {
				t.Errorf("%d things after the rest", inv.Len())
			}
		})
	}
}

// What is reserved is claimed by prefixes, an Endpoint is dropped with its ports, and a nil Inventory holds nothing.
func TestInventory(t *testing.T) {
	inv := someHeld()
	if rest := inv.Unreserved([]netip.Prefix{heldPrefix, netip.MustParsePrefix("10.1.0.0/24")}); len(rest) != 1 || rest[0].String() != "10.1.0.0/24" {
		t.Errorf("unreserved: %v", rest)
	}
	if got := list(inv.Drop("n", "e")); got != "unpublish n/p, detach n/e" {
		t.Errorf("drop: %q", got)
	}
	if got := inv.Drop("n", "e"); got != nil {
		t.Errorf("drop again: %v", got)
	}
	var none *Inventory
	if _, there := none.Claim(AddNetwork(heldNetwork, nil)); there || none.Rest() != nil || none.Drop("n", "e") != nil {
		t.Error("a nil inventory holds something")
	}
}

// The event that an interface has gone may be lost with the control it was for. The ledger says it to the next one.
func TestGoneIsHeld(t *testing.T) {
	l := newLedger()
	for _, id := range []string{"e", "f"} {
		l.add(attachRequest{Network: "n", Endpoint: spec.Endpoint{ID: id}}.entry())
		l.add(publishRequest{Network: "n", ID: "p" + id, Endpoint: id}.entry())
	}
	l.gone("n", "e")
	l.gone("n", "nobody")
	l.update(updateRequest{Network: "n", Endpoint: spec.Endpoint{ID: "e", Names: []string{"web"}}})
	page, err := l.page(0)
	if err != nil {
		t.Fatal(err)
	}
	inv := newInventory(page.Held)
	if got := list(inv.DropGone()); got != "unpublish n/pe, detach n/e" {
		t.Errorf("dropped: %q", got)
	}
	if got := list(inv.DropGone()); got != "" || inv.Len() != 2 {
		t.Errorf("then %q, and %d things are left", got, inv.Len())
	}
}

func list(rs []Request) string {
	var all []string
	for _, r := range rs {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}

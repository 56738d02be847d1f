package cnm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/usernet/usernet/cnm/cnmtest"
	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/driver/bridge"
	"github.com/usernet/usernet/cnm/driver/host"
	"github.com/usernet/usernet/cnm/driver/null"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/ipam"
	"github.com/usernet/usernet/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Controller in a world of twins.
type rig struct {
	t     *testing.T
	c     *Controller
	store *cnmtest.Store
	dp    *cnmtest.Datapath
	conf  func(*Config)

	mu    sync.Mutex
	alive map[string]bool // sandboxes whose shims live
}

// box is a sandbox of the rig with its shim.
type box struct {
	*Sandbox
	ns *cnmtest.Namespace
	j  Joined
}

func newRig(t *testing.T, conf ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, store: cnmtest.NewStore(), dp: cnmtest.NewDatapath(), alive: make(map[string]bool)}
	r.conf = func(c *Config) {
		for _, f := range conf {
			f(c)
		}
	}
	r.start()
	t.Cleanup(func() { r.c.Close() })
	return r
}

// start makes a Controller, the first one or the next.
func (r *rig) start() {
	r.t.Helper()
	resolv := filepath.Join(r.t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.53\nsearch example.com\noptions edns0\n"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	var drivers driver.Registry
	for _, d := range []driver.Driver{bridge.New(), host.New(), null.New()} {
		if err := drivers.Register(d); err != nil {
			r.t.Fatal(err)
		}
	}
	pools, err := ipam.New(ipam.Config{HostID: "rig"})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := Config{
		Store: r.store, Datapath: r.dp, Drivers: &drivers, IPAM: ipam.Drivers{"default": pools, "null": ipam.Null{}},
		ResolvConf: resolv, Alive: r.isAlive,
	}
	r.conf(&cfg)
	if r.c, err = New(cfg); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) isAlive(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alive[id]
}

func (r *rig) setAlive(id string, alive bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive[id] = alive
}

// idOf is the id of the sandbox of that name.
func idOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// create makes a Network; subnet may be empty.
func (r *rig) create(name, subnet string, more ...func(*NetworkConfig)) string {
	r.t.Helper()
	conf := NetworkConfig{Name: name}
	if subnet != "" {
		conf.IPAM.Subnets = []Subnet{{Prefix: netip.MustParsePrefix(subnet)}}
	}
	for _, f := range more {
		f(&conf)
	}
	id, _, err := r.c.Create(context.Background(), conf)
	if err != nil {
		r.t.Fatalf("create %s: %v", name, err)
	}
	return id
}

// sandboxConf is a sandbox with legs in these Networks.
func sandboxConf(name string, networks ...string) SandboxConfig {
	s := SandboxConfig{ID: idOf(name), Name: name, Kind: "run", Created: time.Unix(1, 0)}
	for _, n := range networks {
		s.Networks = append(s.Networks, EndpointConfig{Network: n})
	}
	return s
}

// tryRun starts a sandbox as its shim does: join, make the namespaces, hand over each TAP, go.
func (r *rig) tryRun(s SandboxConfig) (*box, error) {
	b := &box{ns: cnmtest.NewNamespace()}
	r.setAlive(s.ID, true)
	var err error
	if b.Sandbox, b.j, err = r.c.Join(context.Background(), s, b.ns); err != nil {
		r.setAlive(s.ID, false)
		return nil, err
	}
	b.ns.Start(b.j.Links, b.j.Routes, b.j.Files)
	if err := b.attach(); err != nil {
		b.Close()
		return nil, err
	}
	b.Started(4711)
	return b, nil
}

func (b *box) attach() error {
	for _, l := range b.ns.Links() {
		dev, err := cnmtest.TAP()
		if err != nil {
			return err
		}
		err = b.Attach(l.EndpointID, dev, tap.Info{Name: l.Name})
		dev.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) run(s SandboxConfig) *box {
	r.t.Helper()
	b, err := r.tryRun(s)
	if err != nil {
		r.t.Fatalf("run %s: %v", s.Name, err)
	}
	r.t.Cleanup(func() { b.Close() })
	return b
}

func (r *rig) connect(sandbox, network string) {
	r.t.Helper()
	if err := r.c.Connect(context.Background(), sandbox, EndpointConfig{Network: network}); err != nil {
		r.t.Fatalf("connect %s to %s: %v", sandbox, network, err)
	}
}

func (r *rig) disconnect(network, sandbox string) {
	r.t.Helper()
	if err := r.c.Disconnect(context.Background(), network, sandbox, false); err != nil {
		r.t.Fatalf("disconnect %s from %s: %v", sandbox, network, err)
	}
}

// leg is one of the sandbox's, by its Network's name.
func (b *box) leg(network string) EndpointInfo {
	info, _ := b.c.Sandbox(b.conf.ID)
	for _, e := range info.Endpoints {
		if e.NetworkName == network {
			return e
		}
	}
	return EndpointInfo{}
}

// settled waits until nothing is left to be told in the background.
func (r *rig) settled() {
	r.t.Helper()
	wait(r.t, "the background to be done", func() bool {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		for _, sb := range r.c.sandboxes {
			if sb.syncing {
				return false
			}
			select {
			case sb.op <- struct{}{}: // whoever had it last is done
				<-sb.op
			default:
				return false
			}
		}
		return true
	})
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	enough := time.After(10 * time.Second)
	for !done() {
		select {
		case <-look.C:
		case <-enough:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// wantErr is an error's text and kind.
func wantErr(t *testing.T, what string, err error, kind fault.Kind, text string) {
	t.Helper()
	if err == nil || err.Error() != text || fault.KindOf(err) != kind {
		t.Errorf("%s:\ngot  %v (kind %d)\nwant %s (kind %d)", what, err, fault.KindOf(err), text, kind)
	}
}

func contains(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}

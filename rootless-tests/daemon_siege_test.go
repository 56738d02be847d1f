package rootlesstests

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// The daemon is killed again and again at no particular moment, while clients make and remove networks, connect
// and disconnect a sandbox, and start sandboxes that end or are killed. Whatever it was about to do, the next daemon
// must have what was acknowledged, nothing of what is gone, and the sandboxes that live as they were.

// siege is a daemon, those who live through it, and what they know.
type siege struct {
	d         *rig.Daemon
	api       *client.Client
	residents map[string]*rig.Sandbox // in network base
	addrs     map[string]netip.Addr   // theirs there

	mu       sync.Mutex
	networks map[string]bool // whether it exists; those of which nobody can know are not here
	last     int             // number of the last network
}

// FT-01: killed 30 times under load.
func TestFT01(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.NewDaemon(t)
	s := &siege{d: d, api: client.New(d.Socket()), residents: map[string]*rig.Sandbox{}, addrs: map[string]netip.Addr{}, networks: map[string]bool{}}
	defer s.api.Close()
	d.Must(t, "usernet", "network", "create", "base")
	d.Must(t, "usernet", "network", "create", "extra")
	for _, name := range []string{"p0", "p1", "p2"} {
		s.residents[name] = d.Run(t, "--name", name, "--network", "base")
		s.addrs[name] = addrIn(t, d, name, "base")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(150))*time.Millisecond)
		work := s.load(ctx, t.Context(), round)
		<-ctx.Done()
		cancel()
		pid := d.Running()
		if pid == 0 {
			t.Fatalf("round %d: there is no daemon", round)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		work.Wait()
		// It starts another, unless a sandbox has. The one that dies may take the question with it.
		rig.WaitFor(t, rig.Patience, "another daemon", func() bool { return d.Try(t, "usernet", "network", "ls").Code == 0 && d.Running() != pid })
		var why error
		if !rig.Eventually(t, 5*time.Second, func() bool { why = s.check(t); return why == nil }) {
			t.Fatalf("after kill %d: %v", round, why)
		}
	}
	if s.last < 30 {
		t.Errorf("only %d networks were made: there was no load", s.last)
	}
	d.Must(t, "usernet", "network", "prune", "-f")
	if got := d.Must(t, "usernet", "network", "ls", "-f", "type=custom", "--format", "{{.Name}}"); got != "base" && got != "base\nextra" {
		t.Errorf("networks that cannot be removed: %q", got)
	}
}

// load starts clients that work until ctx ends; the sandboxes of every other round are killed then, the others end
// by themselves, before outer does. Errors are expected when the daemon is killed.
func (s *siege) load(ctx, outer context.Context, round int) *sync.WaitGroup {
	wg := new(sync.WaitGroup)
	wg.Go(func() {
		for ctx.Err() == nil {
			s.createAndRemove(ctx)
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = s.api.NetworkConnect(ctx, "extra", network.ConnectRequest{Container: "p0"})
			_ = s.api.NetworkDisconnect(ctx, "extra", network.DisconnectRequest{Container: "p0"})
		}
	})
	wg.Go(func() {
		lives, command := ctx, "sleep 1000"
		if round%2 == 0 {
			lives, command = outer, "sleep 0.01"
		}
		for ctx.Err() == nil {
			_ = s.d.Command(lives, append([]string{"usernet", "run", "--network", "base", "--"}, strings.Fields(command)...)...).Run()
		}
	})
	return wg
}

// createAndRemove makes a network, and perhaps removes it, and notes what was acknowledged.
func (s *siege) createAndRemove(ctx context.Context) {
	s.mu.Lock()
	s.last++
	name := fmt.Sprintf("t%d", s.last)
	s.mu.Unlock()
	_, err := s.api.NetworkCreate(ctx, network.CreateRequest{Name: name})
	if err != nil {
		return
	}
	s.note(name, true)
	if s.last%4 == 0 {
		return
	}
	s.mu.Lock()
	delete(s.networks, name)
	s.mu.Unlock()
	if err := s.api.NetworkRemove(ctx, name); err == nil {
		s.note(name, false)
	}
}

func (s *siege) note(name string, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks[name] = exists
}

// check compares what the daemon says with what is there, and removes the networks of the round.
func (s *siege) check(t *testing.T) error {
	ctx := t.Context()
	list, err := s.api.NetworkList(ctx, nil)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, n := range list {
		there[n.Name] = true
	}
	for name, exists := range s.networks {
		if there[name] != exists {
			return fmt.Errorf("network %s was acknowledged as %v and is %v", name, exists, there[name])
		}
	}
	if err := s.checkEndpoints(t); err != nil {
		return err
	}
	for name := range there {
		if !strings.HasPrefix(name, "t") {
			continue
		}
		if err := s.api.NetworkRemove(ctx, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		delete(s.networks, name)
	}
	return nil
}

// checkEndpoints compares the endpoints that the daemon has with the sandboxes that live.
func (s *siege) checkEndpoints(t *testing.T) error {
	base, _, err := s.api.NetworkInspect(t.Context(), "base", false)
	if err != nil {
		return err
	}
	addrs := map[string]netip.Addr{}
	for _, c := range base.Containers {
		addrs[c.Name] = c.IPv4Address.Addr()
	}
	if len(base.Containers) != len(s.residents) || !maps.Equal(addrs, s.addrs) {
		return fmt.Errorf("endpoints are %v, want %v", addrs, s.addrs)
	}
	extra, _, err := s.api.NetworkInspect(t.Context(), "extra", false)
	if err != nil {
		return err
	}
	links := strings.Count(s.residents["p0"].Node.Run(t, "ip", "-o", "-4", "addr", "show"), ": eth")
	if links != 1+len(extra.Containers) {
		return fmt.Errorf("p0 has %d interfaces, and network extra %d endpoints", links, len(extra.Containers))
	}
	for _, pair := range [][2]string{{"p0", "p1"}, {"p1", "p2"}, {"p2", "p0"}} {
		if !ping(t, s.residents[pair[0]].Node, pair[1]) {
			return fmt.Errorf("%s does not reach %s; known are %v", pair[0], pair[1], slices.Sorted(maps.Keys(addrs)))
		}
	}
	return nil
}

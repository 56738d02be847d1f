package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/rootless-tests/bench/report"
	"github.com/usernet/usernet/rootless-tests/bench/stats"
)

const (
	// scalePool gives a thousand networks subnets, which Docker's own pools do not.
	scalePool = "base=10.0.0.0/8,size=24"
	// crowdSubnet has room for the crowd.
	crowdSubnet = "10.64.0.0/16"
	// lists is how often the networks are listed, for a 99th percentile.
	lists = 200
	// lastOnes of a crowd are those whose attach counts: the crowd is there.
	lastOnes = 500
	// scalePatience is for a restart that takes ten times its limit.
	scalePatience = 50 * time.Second
	// freed is how long memory may take to be given back: some seconds after the end of many networks the daemon
	// collects, and the datapath is replaced by a fresh one.
	freed = 15 * time.Second

	mebi = 1 << 20
)

// measureScale measures usernet with many networks and with many containers.
func (m *meter) measureScale() {
	if !m.wants(report.Usernet) {
		return
	}
	for _, part := range []struct {
		step  string
		fails report.Measure
		run   func(*scale) error
	}{
		{manyStep, report.NetworksCreate, (*scale).networks},
		{crowdStep, report.CrowdAttach, (*scale).crowd},
	} {
		if !slices.Contains(m.only, part.step) {
			continue
		}
		progress(part.step)
		if err := m.scaleOf(part.run); err != nil {
			m.result.Fail(report.Usernet, 0, part.fails, err.Error())
		}
		m.builder.next++
	}
}

// scale is a daemon under many networks or containers.
type scale struct {
	meter   *meter
	daemon  *daemon
	started []*process
	api     *client.Client
	people  *crowd
	base    held // with nothing to do
}

func (m *meter) scaleOf(run func(*scale) error) (err error) {
	s := &scale{meter: m}
	stop := func() {
		for _, p := range s.started {
			p.stop()
		}
	}
	defer stop()
	s.daemon, err = m.builder.startDaemon(s.start, fmt.Sprintf("scale%d", m.builder.next), "--log-level", "warn", "--default-address-pool", scalePool)
	if err != nil {
		return err
	}
	s.api = client.New(s.daemon.socket(apiSocket))
	defer s.api.Close()
	if s.people, err = newCrowd(s.daemon); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			stop() // a daemon that does not answer would have each container wait for it
		}
		err = errors.Join(err, s.people.close())
	}()
	// A network that comes and goes has everything in place that all networks share.
	if err := s.create(context.Background(), "first", ""); err != nil {
		return err
	}
	if _, err := s.people.add(context.Background(), "first", "first"); err != nil {
		return err
	}
	if err := errors.Join(s.people.leave(), s.api.NetworkRemove(context.Background(), "first")); err != nil {
		return err
	}
	if s.base, err = s.memory(); err != nil {
		return err
	}
	return run(s)
}

func (s *scale) start(cmd *exec.Cmd) (*process, error) {
	p, err := launch(cmd)
	if err == nil {
		s.started = append(s.started, p)
	}
	return p, err
}

// held is the memory of the two processes, in bytes.
type held struct{ daemon, datapath float64 }

func (h held) sum() float64 { return h.daemon + h.datapath }

// memory is what they hold.
func (s *scale) memory() (h held, err error) {
	datapath, err := s.daemon.datapath()
	if err != nil {
		return h, err
	}
	if h.daemon, err = residentBytes([]int{s.daemon.process.pid()}); err != nil {
		return h, err
	}
	h.datapath, err = residentBytes([]int{datapath})
	return h, err
}

// addMemory records what they hold beyond the base, together and the datapath.
func (s *scale) addMemory(now held, both, datapath report.Measure) {
	s.add(both, (now.sum()-s.base.sum())/mebi)
	s.add(datapath, (now.datapath-s.base.datapath)/mebi)
}

func (s *scale) add(m report.Measure, v float64) { s.meter.result.Add(report.Usernet, 0, m, v) }

// create makes a network, of a subnet or of any.
func (s *scale) create(ctx context.Context, name, subnet string) error {
	q := network.CreateRequest{Name: name, Driver: "bridge"}
	if subnet != "" {
		p, err := netip.ParsePrefix(subnet)
		if err != nil {
			return err
		}
		q.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: p}}}
	}
	if _, err := s.api.NetworkCreate(ctx, q); err != nil {
		return fmt.Errorf("create network %s: %w", name, err)
	}
	return nil
}

func networkName(i int) string { return fmt.Sprintf("net%d", i) }

// networks makes a thousand networks with two containers each, lists them, kills the daemon, and removes everything.
func (s *scale) networks() error {
	ctx := context.Background()
	start := time.Now()
	for i := range report.Networks {
		if err := s.create(ctx, networkName(i), ""); err != nil {
			return err
		}
	}
	s.add(report.NetworksCreate, time.Since(start).Seconds())
	start = time.Now()
	for i := range report.Networks * report.NetworkContainers {
		if _, err := s.people.add(ctx, fmt.Sprintf("c%d", i), networkName(i/report.NetworkContainers)); err != nil {
			return err
		}
	}
	s.add(report.NetworksJoin, time.Since(start).Seconds())
	now, err := s.memory()
	if err != nil {
		return err
	}
	s.addMemory(now, report.NetworksMemory, report.NetworksMoving)
	if err := errors.Join(s.list(ctx), s.restart(ctx), s.people.leave()); err != nil {
		return err
	}
	for i := range report.Networks {
		if err := s.api.NetworkRemove(ctx, networkName(i)); err != nil {
			return fmt.Errorf("remove network %s: %w", networkName(i), err)
		}
	}
	return s.left()
}

// list times what `network ls` asks for.
func (s *scale) list(ctx context.Context) error {
	var ms []float64
	for range lists {
		start := time.Now()
		all, err := s.api.NetworkList(ctx, nil)
		ms = append(ms, float64(time.Since(start))/float64(time.Millisecond))
		if err != nil {
			return fmt.Errorf("list networks: %w", err)
		}
		if len(all) < report.Networks {
			return fmt.Errorf("list networks: %d of %d are there", len(all), report.Networks)
		}
	}
	s.add(report.NetworksList, stats.Quantile(ms, 0.99))
	return nil
}

// restart kills the daemon, starts another, and waits until every container is back in its network.
func (s *scale) restart(ctx context.Context) error {
	start := time.Now()
	s.daemon.process.stop()
	if err := s.daemon.start(s.start); err != nil {
		return err
	}
	if err := s.daemon.process.waitWithin(scalePatience, "all containers", func() bool { return s.people.back(1) }); err != nil {
		return errors.Join(err, s.people.log.err())
	}
	took := time.Since(start).Seconds()
	all, err := s.api.NetworkList(ctx, nil)
	if err == nil && len(all) < report.Networks {
		err = fmt.Errorf("%d of %d are there", len(all), report.Networks)
	}
	if err != nil {
		return fmt.Errorf("list networks after the restart: %w", err)
	}
	if err := s.people.log.err(); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	s.add(report.NetworksRestart, took)
	return nil
}

// left measures memory when everything is gone and what is to be given back has been.
func (s *scale) left() error {
	time.Sleep(freed)
	now, err := s.memory()
	if err == nil {
		s.addMemory(now, report.NetworksLeft, report.NetworksStay)
	}
	return err
}

// crowd puts two thousand containers into one network.
func (s *scale) crowd() error {
	ctx := context.Background()
	if err := s.create(ctx, "crowd", crowdSubnet); err != nil {
		return err
	}
	var ms []float64
	for i := range report.Crowd {
		wait, err := s.people.add(ctx, fmt.Sprintf("c%d", i), "crowd")
		if err != nil {
			return err
		}
		ms = append(ms, float64(wait)/float64(time.Millisecond))
	}
	s.add(report.CrowdAttach, stats.Quantile(ms[len(ms)-lastOnes:], 0.99))
	now, err := s.memory()
	if err == nil {
		s.addMemory(now, report.CrowdMemory, report.CrowdMoving)
	}
	return err
}

package control

import (
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/usernet/usernet/dnsproxy/resolvconf"
)

const defaultResolvConf = "/etc/resolv.conf"

// watchDelay is how long a sandbox must live before the host's resolvers are watched. Taking an inotify watch
// down costs 10 to 20 ms of waiting in the kernel, more than everything else a short command needs
// afterwards. The watch begins with reading the file, so a change in between is seen, late by this
// much at most. Measured: `usernet run -- true` 57 ms with the watch at once, 43 ms with it later (best of 25).
const watchDelay = 500 * time.Millisecond

// watch reads the host's resolvers and starts both watchers, the first time it is called.
func (s *supervisor) watch() {
	if s.watching {
		return
	}
	s.watching = true
	s.wg.Go(s.watchHost)
	dns := s.c.cfg.DNS
	if len(dns.Servers) > 0 {
		return
	}
	path := dns.ResolvConf
	if path == "" {
		path = defaultResolvConf
	}
	// Read here once, so that the first datapath starts with the right ones and the watch, which
	// begins with the same content, changes nothing.
	content, err := os.ReadFile(path)
	if err != nil {
		s.log.Warn("no dns upstreams until the file can be read", "err", err)
	}
	s.want.upstreams = upstreams(content)
	s.wg.Go(func() { s.watchResolvConf(path) })
}

func (s *supervisor) watchResolvConf(path string) {
	wait(s.ctx, watchDelay)
	if s.ctx.Err() != nil {
		return
	}
	err := resolvconf.Watch(s.ctx, path, func(content []byte) {
		u := upstreams(content)
		// Only the latest counts: take back what the supervisor has not seen yet. Nobody else sends.
		select {
		case <-s.upstreams:
		default:
		}
		s.upstreams <- u
	})
	if err != nil && s.ctx.Err() == nil {
		s.log.Warn("changes of the host's resolvers go unnoticed", "err", err)
	}
}

// upstreams are the resolvers in a resolv.conf. Zones become interface numbers, because the
// datapath cannot look up names of interfaces.
func upstreams(content []byte) []netip.AddrPort {
	return resolvconf.Parse(content, func(name string) (int, bool) {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return 0, false
		}
		return i.Index, true
	}).Upstreams()
}

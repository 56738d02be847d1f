package nat

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/quota"
	"github.com/usernet/usernet/stack/spec"
)

// Env is what the NAT is given to work with.
type Env struct {
	// Emit takes what goes to containers. It is called by many goroutines.
	Emit ip.Emitter
	// Drops counts; nil counts nowhere.
	Drops *drop.Counters
	// Log is told of state changes, never of packets; nil discards.
	Log *slog.Logger
	// UDPSockets and PingSockets are what the Networks of the process may have open together; nil: no bound.
	UDPSockets, PingSockets *quota.Pool
}

const (
	// expiryGrain is how finely flows expire: one wake-up frees all that end within it.
	expiryGrain = time.Second
	// logEvery is how often trouble with sockets is told.
	logEvery = time.Minute

	// recvMessages and recvSize are the memory a readable socket borrows: 2 MiB of address space, of
	// which the kernel touches what it fills.
	recvMessages = 32
	recvSize     = 65535
)

// flows is what UDP and Ping share: the table with its lock and its clock, and for each flow a host
// socket with a goroutine that waits on it.
//
// Lock order: flow.sendMu, then flows.mu or flow.mu; neither of the latter is held over a system call.
type flows struct {
	Env
	what     string // for logs: "udp", "ping"
	policy   *Policy
	outbound [2]netip.Addr // host address to leave from, v4 and v6; zero lets the kernel choose
	device   [2]string     // and the interface; empty leaves it to the routes
	mtu      int
	deliver  func(f *flow, rb *recvBuf, n int) // what to do with n received messages

	share      *quota.Share // of the process's descriptors; one is taken before a socket is opened
	errLimit   *ip.Limiters // ICMP errors to a container
	fullLimit  *ip.Limiters // of those, the ones that say "at your limit"
	lastLog    atomic.Int64
	hostGen    atomic.Uint32 // counts HostChanged
	sendBufs   sync.Pool     // of *sendBuf
	recvBufs   sync.Pool     // of *recvBuf
	errBufs    sync.Pool     // of *errBuf
	grain      time.Duration
	openSocket func(proto uint8, v6 bool, bind netip.Addr) (*socket, error)

	wake chan struct{} // the earliest deadline came nearer
	stop chan struct{}
	wg   sync.WaitGroup // the expiry goroutine and every receiver

	mu    sync.Mutex // guards what follows
	table *table[*flow]
	// hot is the flow that was counted last in the present batch of packets, and clock the time of the batch: a
	// train of datagrams looks at neither the table nor the clock but once. Zero between batches, and always for Ping.
	hot     *entry[*flow]
	clock   time.Time
	sleepTo time.Time // when the expiry goroutine looks next
	// expiring says that there is an expiry goroutine; a Network that nobody uses has none.
	expiring bool
	closed   bool
}

func newFlows(env Env, what string, pool *quota.Pool, p *Policy, n spec.Network, t *table[*flow]) *flows {
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	s := &flows{
		Env: env, what: what, policy: p, table: t, openSocket: openSocket, share: pool.Share(),
		outbound: [2]netip.Addr{n.Outbound4, n.Outbound6}, mtu: n.MTU,
		device:    [2]string{n.OutboundDevice4, n.OutboundDevice6},
		errLimit:  ip.NewLimiters(ip.ErrorsPerSecond, ip.ErrorBurst),
		fullLimit: ip.NewLimiters(1, 1),
		grain:     min(expiryGrain, t.idle[idleShort]/20),
		wake:      make(chan struct{}, 1), stop: make(chan struct{}),
	}
	s.sendBufs.New = func() any { return newSendBuf() }
	s.recvBufs.New = func() any { return newRecvBuf() }
	s.errBufs.New = func() any { return newErrBuf() }
	return s
}

// flow returns the flow of p's sender from key on, which it makes if there is none, and counts p as
// an outbound datagram of it. mapped says that p is for the host itself. It returns nil when there can be none; p is
// then counted and answered.
func (s *flows) flow(p *ip.Packet, key netip.AddrPort, class idleClass, mapped bool) *flow {
	place, device := s.place(key, mapped)
	s.mu.Lock()
	if e := s.hot; e != nil && e.key == place && e.class >= class {
		s.mu.Unlock()
		return e.value
	}
	now := s.nowLocked(p)
	if e := s.table.get(place); e != nil {
		s.table.touch(now, e, class)
		if !s.clock.IsZero() {
			s.hot = e
		}
		s.mu.Unlock()
		return e.value
	}
	room, closed := s.table.room(p.MAC), s.closed
	s.mu.Unlock()
	switch {
	case closed:
		s.Drops.Add(drop.SocketError)
		return nil
	case !room:
		s.full(now, p, drop.FlowLimit)
		return nil
	}
	if _, ok := s.share.Take(); !ok {
		s.full(now, p, drop.FlowLimit)
		return nil
	}
	sock, err := s.openSocket(p.Proto, p.Is6(), s.bindAddr(p.Is6()))
	if err == nil && device != "" {
		err = sock.bindDevice(device)
	}
	if err != nil {
		s.share.Give()
		s.openFailed(now, p, err)
		return nil
	}
	return s.insert(now, p, key, place, class, sock)
}

// place is where in the table the flow of key is, and the interface its socket is bound to. A socket bound to an
// interface reaches nothing of the host, so there the same key has a second flow for what is mapped: under the
// address in another spelling, which no packet has.
func (s *flows) place(key netip.AddrPort, mapped bool) (place netip.AddrPort, device string) {
	a := key.Addr()
	device = s.device[0]
	if a.Is6() {
		device = s.device[1]
	}
	switch {
	case device == "" || !mapped:
		return key, device
	case a.Is4():
		return netip.AddrPortFrom(netip.AddrFrom16(a.As16()), key.Port()), ""
	}
	return netip.AddrPortFrom(a.WithZone("host"), key.Port()), ""
}

// nowLocked is the time, of UDP's whole batch if it has been asked for. To ask costs as much as the rest of flow.
func (s *flows) nowLocked(p *ip.Packet) time.Time {
	if p.Proto != ip.UDP {
		return time.Now() // pings come one by one and nobody says when their batch ends
	}
	if s.clock.IsZero() {
		s.clock = time.Now()
	}
	return s.clock
}

// endBatch forgets what holds for a batch of packets.
func (s *flows) endBatch() {
	s.mu.Lock()
	s.hot, s.clock = nil, time.Time{}
	s.mu.Unlock()
}

// insert puts a new flow into the table. Another goroutine may have been faster with the same key or
// may have taken the last place, since the socket was made without the lock.
func (s *flows) insert(now time.Time, p *ip.Packet, key, place netip.AddrPort, class idleClass, sock *socket) *flow {
	f := &flow{key: key, mac: p.MAC, proto: p.Proto, sock: sock, gen: s.hostGen.Load()}
	s.mu.Lock()
	if e := s.table.get(place); e != nil {
		s.table.touch(now, e, class)
		s.mu.Unlock()
		sock.close()
		s.share.Give()
		return e.value
	}
	var e *entry[*flow]
	ok := false
	if !s.closed {
		e, ok = s.table.add(now, place, p.MAC, class, f)
	}
	if !ok {
		s.mu.Unlock()
		sock.close()
		s.share.Give()
		s.full(now, p, drop.FlowLimit)
		return nil
	}
	s.wg.Go(func() { s.receive(f, sock) })
	if !s.expiring {
		s.expiring = true
		s.wg.Go(s.expire)
	}
	nearer := s.sleepTo.IsZero() || now.Add(s.table.idle[e.class]).Before(s.sleepTo)
	s.mu.Unlock()
	if nearer {
		select {
		case s.wake <- struct{}{}:
		default: // it is being woken
		}
	}
	return f
}

func (s *flows) bindAddr(v6 bool) netip.Addr {
	if v6 {
		return s.outbound[1]
	}
	return s.outbound[0]
}

// gateway is the source of errors that start with us.
func (s *flows) gateway(v6 bool) netip.Addr {
	if v6 {
		return s.policy.gateway6
	}
	return s.policy.gateway4
}

// full drops p because there can be no flow for it, and tells its sender so once a second (RFC 5508 REQ-8).
func (s *flows) full(now time.Time, p *ip.Packet, r drop.Reason) {
	s.Drops.Add(r)
	if s.fullLimit.Allow(now, p.MAC) {
		s.emitError(p, s.gateway(p.Is6()), ip.AdminProhibited)
	}
}

// openFailed drops p because the host refused a socket.
func (s *flows) openFailed(now time.Time, p *ip.Packet, err error) {
	if errors.Is(err, unix.EACCES) {
		// What the host does not allow is no limit that the sender has reached: every one is told, as with
		// our own Policy, so that each of several pings at a time has its answer.
		s.Drops.Add(drop.SocketError)
		if s.errorsAllowed(p.MAC) {
			s.emitError(p, s.gateway(p.Is6()), ip.AdminProhibited)
		}
	} else {
		s.full(now, p, drop.SocketError)
	}
	last := s.lastLog.Load()
	if last != 0 && now.UnixNano()-last < int64(logEvery) || !s.lastLog.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	s.Log.Warn(fmt.Sprintf("%s flow refused: %v%s", s.what, err, hint(p.Proto, err)), "container", p.Src)
}

// hint says what a person can do about a socket the host refuses.
func hint(proto uint8, err error) string {
	switch {
	case errors.Is(err, unix.EACCES) && proto != ip.UDP:
		return `; ping sockets are not allowed to this group, run "sysctl -w net.ipv4.ping_group_range='0 2147483647'" as root`
	case errors.Is(err, unix.EMFILE):
		return "; raise the limit of open files (ulimit -n)"
	case errors.Is(err, unix.ENFILE):
		return "; raise fs.file-max"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "; the outbound address is not configured on this host"
	case errors.Is(err, unix.ENODEV):
		return "; the outbound interface does not exist on this host"
	}
	return ""
}

// receive waits on one socket until it is closed.
func (s *flows) receive(f *flow, sock *socket) {
	// One closure for the life of the socket. It says "not ready" after it has taken all there is, so the
	// poller parks the goroutine without another system call: readiness is edge-triggered, and what
	// arrives meanwhile is a new edge. It says "ready" after maxRounds, so that Close is noticed.
	ready := func(fd uintptr) bool { return s.drain(f, sock, int(fd)) }
	for sock.rc.Read(ready) == nil {
	}
}

const maxRounds = 16

// drain receives until the socket is empty, in bounds: true means there may be more.
func (s *flows) drain(f *flow, sock *socket, fd int) (more bool) {
	rb := s.recvBufs.Get().(*recvBuf)
	defer s.recvBufs.Put(rb)
	for range maxRounds {
		n, err := rb.batch.RecvFD(fd)
		if n > 0 {
			s.deliver(f, rb, n)
			sys.Linger(rb.batch.Bytes())
			if n < rb.batch.Cap() {
				return false
			}
			continue
		}
		// The error of an earlier datagram, or the wake-up for one whose error the sender met.
		if s.readErrors(f, sock) == 0 && (err == nil || errors.Is(err, syscall.EAGAIN)) {
			return false
		}
	}
	return true
}

// expire ends flows whose time has come. It sleeps until the next deadline, for good while there is no flow.
func (s *flows) expire() {
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	for {
		dead, wait := s.collect(time.Now())
		for _, f := range dead {
			f.close(s)
		}
		timer.Reset(wait)
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// collect takes the flows that have expired out of the table and says how long to sleep.
func (s *flows) collect(now time.Time) (dead []*flow, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hot = nil // it may be among the dead
	for e := s.table.expire(now); e != nil; e = s.table.expire(now) {
		dead = append(dead, e.value)
	}
	at, ok := s.table.next()
	if !ok {
		s.sleepTo = time.Time{}
		return dead, math.MaxInt64
	}
	wait = max(at.Sub(now), s.grain)
	s.sleepTo = now.Add(wait)
	return dead, wait
}

// len is how many flows there are.
func (s *flows) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.len()
}

// hostChanged makes every flow forget what it learnt of the way out, and trouble worth a log line again.
func (s *flows) hostChanged() {
	s.hostGen.Add(1)
	s.lastLog.Store(0)
}

// close ends all flows and waits for their goroutines. A second call only waits.
func (s *flows) close() {
	s.mu.Lock()
	first := !s.closed
	s.closed, s.hot = true, nil
	var all []*flow
	for _, e := range s.table.flows {
		all = append(all, e.value)
		s.table.remove(e)
	}
	s.mu.Unlock()
	if first {
		close(s.stop)
		for _, f := range all {
			f.close(s)
		}
	}
	s.wg.Wait()
}

// recvBuf is the memory one readable socket borrows.
type recvBuf struct {
	batch *sys.RecvBatch
	hdr   [ip.HeaderLen6 + ip.UDPHeaderLen]byte
	parts [2][]byte
	echo  []byte // Ping: the reply being built
}

func newRecvBuf() *recvBuf { return &recvBuf{batch: sys.NewRecvBatch(recvMessages, recvSize)} }

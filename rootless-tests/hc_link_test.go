package rootlesstests

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// HC-01: frames that are too short. The kernel lets nobody send less than an Ethernet header to a TAP; what the
// reader makes of less is tested beside it.
func TestHC01(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	for n := range 14 {
		if err := link.Send(make([]byte, n)); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOBUFS) {
			t.Fatalf("frame of %d bytes: %v; the kernel lets it pass, so it belongs to what is sent below", n, err)
		}
	}
	types := []l2.EtherType{l2.TypeIPv4, l2.TypeIPv6, l2.TypeARP, 0x8100, 0, 20, 0xffff}
	for i := range 10000 {
		h := l2.MakeHeader(gateway, link.MAC, types[i%len(types)])
		// Nothing, and every cut into the headers that follow.
		link.MustSend(t, append(h[:], make([]byte, i/len(types)%44)...))
		if i%400 == 0 {
			pace(t, link, gateway)
		}
	}
	wantAlive(t, r, sb, datapath)
}

// HC-02: random frames, and correct ones with random damage.
func TestHC02(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb, other := r.Run(t), r.Run(t)
	datapath := sb.Datapath(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	bystander := other.DialUDP(t, serveUDP(t, r.X1, rig.X1v4))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := fuzzer{rand.New(rand.NewPCG(seed, 0)), link.MAC, gateway}
	const frames = 200_000
	for i := range frames {
		if err := link.Send(f.frame()); err != nil && !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ENOBUFS) {
			t.Fatal(err)
		}
		if i%400 == 0 {
			pace(t, link, gateway)
		}
		if i%20_000 == 0 {
			exchange(t, bystander, []byte("undisturbed"))
		}
	}
	wantAlive(t, r, sb, datapath)
}

// fuzzer makes frames of a hostile container.
type fuzzer struct {
	*rand.Rand
	own, gateway l2.MAC
}

func (f *fuzzer) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return b
}

func (f *fuzzer) frame() []byte {
	dst := f.gateway
	if f.IntN(8) == 0 {
		dst = []l2.MAC{l2.Broadcast, {0x33, 0x33, 0, 0, 0, 1}, {1, 0, 0x5e, 0, 0, 1}, l2.MAC(f.bytes(6))}[f.IntN(4)]
	}
	src := f.own
	if f.IntN(16) == 0 {
		src = l2.MAC(f.bytes(6))
	}
	if f.IntN(4) == 0 {
		t := []l2.EtherType{l2.TypeIPv4, l2.TypeIPv6, l2.TypeARP, l2.EtherType(f.Uint32())}[f.IntN(4)]
		return packettest.Bytes(packettest.Ether(src, dst, t, f.bytes(f.IntN(1400))))
	}
	b := packettest.Bytes(packettest.Frame(src, dst, f.packet()))
	for range 1 + f.IntN(4) {
		b[l2.HeaderLen+f.IntN(len(b)-l2.HeaderLen)] = byte(f.Uint32())
	}
	if f.IntN(4) == 0 {
		b = b[:l2.HeaderLen+f.IntN(len(b)-l2.HeaderLen)]
	}
	if n := len(b); f.IntN(2) == 0 && n >= l2.HeaderLen+20 && b[12] == 8 && b[14]>>4 == 4 && 14+int(b[14]&15)*4 <= n && b[14]&15 >= 5 {
		packettest.FixIPv4(b[l2.HeaderLen:]) // the damage gets past the header's checksum
	}
	return b
}

// packet is a correct packet of some kind.
func (f *fuzzer) packet() []byte {
	a := families[f.IntN(2)]
	to := []netip.Addr{a.x1, a.gateway, a.dns}[f.IntN(3)]
	src, dst := at(a.own, uint16(f.Uint32())), at(to, []uint16{53, 67, 547, 9, uint16(f.Uint32())}[f.IntN(5)])
	switch f.IntN(4) {
	case 0:
		return packettest.TCP(src, dst, byte(f.Uint32()), f.Uint32(), f.Uint32(), f.bytes(f.IntN(100)))
	case 1:
		return packettest.ICMP(src.Addr(), dst.Addr(), byte(f.Uint32()), byte(f.IntN(16)), f.Uint32(), f.bytes(f.IntN(100)))
	case 2:
		return packettest.IP(src.Addr(), dst.Addr(), byte(f.Uint32()), f.bytes(f.IntN(200)))
	}
	return packettest.UDP(src, dst, f.bytes(f.IntN(200)))
}

// HC-03: a container cannot speak as the gateway, nor take its place.
func TestHC03(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	server := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
	for i := range 1000 {
		for _, f := range families {
			for _, src := range []l2.MAC{gateway, {2, 0, 0, 0, 0, 1}} {
				p := udp(at(f.own, 9000), at(f.x1, server.at.Port()), "stolen")
				link.MustSend(t, packettest.Bytes(packettest.Frame(src, gateway, p)), packettest.Bytes(packettest.Frame(src, link.MAC, p)))
			}
		}
		if i%50 == 0 {
			pace(t, link, gateway)
		}
	}
	link.SendPacket(t, gateway, udp(at(rig.SandboxAddr4, 9000), server.at, "own"))
	rig.WaitFor(t, rig.Patience, "the same from the container's own MAC", func() bool { return len(server.received()) > 0 })
	wantAlive(t, r, sb, datapath)
	for _, d := range server.received() {
		if d.payload == "stolen" {
			t.Fatal("a frame with the gateway's MAC for its source was carried")
		}
	}
}

// HC-28: a container that breaks its TAP has no network, or a strange one; nothing else happens, and it works
// again when it is put right.
func TestHC28(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	dev := rig.DevEth0
	for _, row := range []struct {
		name        string
		do, undo    [][]string
		worksDuring bool // for sure: with more addresses the kernel may speak from one that is refused
	}{
		{"down", ip("link set DEV down"), ip("link set DEV up", "route replace default via 10.0.2.2"), false},
		{"MTU 65521", ip("link set DEV mtu 65521"), ip("link set DEV mtu 1500"), true},
		{"MTU 1280", ip("link set DEV mtu 1280"), ip("link set DEV mtu 1500"), true},
		{"another MAC", ip("link set DEV address 02:00:00:00:00:77"), ip("link set DEV address OWN"), false},
		{"more addresses", ip("addr add 10.0.2.77/24 dev DEV", "addr add fd00::77/64 dev DEV nodad", "addr add 192.0.2.1/24 dev DEV"),
			ip("addr del 10.0.2.77/24 dev DEV", "addr del fd00::77/64 dev DEV", "addr del 192.0.2.1/24 dev DEV"), false},
		{"no ARP", ip("link set DEV arp off"), ip("link set DEV arp on"), false},
		{"another queue", ip("link set DEV txqueuelen 1"), ip("link set DEV txqueuelen 500"), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			sb := r.Run(t)
			datapath := sb.Datapath(t)
			own := sb.OpenPacket(t, dev).MAC
			run := func(commands [][]string) {
				for _, c := range commands {
					for i, w := range c {
						c[i] = strings.NewReplacer("DEV", dev, "OWN", own.String()).Replace(w)
					}
					sb.Run(t, c...)
				}
			}
			run(row.do)
			if row.worksDuring {
				wantAlive(t, r, sb, datapath)
			} else {
				wantIdle(t, r, datapath)
			}
			run(row.undo)
			// The kernel takes IPv6 addresses away from a device that goes down.
			sb.Run(t, "ip", "addr", "replace", rig.SandboxAddr6.String()+"/64", "dev", dev, "nodad")
			sb.Run(t, "ip", "-6", "route", "replace", "default", "via", rig.Gateway6.String(), "dev", dev)
			wantAlive(t, r, sb, datapath)
			transfer(t, sb.Node, r.X1, rig.X1v4, 1<<20, 5*time.Second)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		t.Parallel()
		sb := r.Run(t)
		datapath := sb.Datapath(t)
		sb.Run(t, "ip", "link", "del", dev)
		wantIdle(t, r, datapath)
		wantIdle(t, r, sb.PID())
		if now := sb.Datapath(t); now != datapath {
			t.Errorf("datapath was process %d and is now %d", datapath, now)
		}
		if out := sb.Run(t, "echo", "the command goes on"); !strings.Contains(out, "goes on") {
			t.Errorf("in the sandbox: %q", out)
		}
		sb.End(t)
	})
}

// ip makes commands of ip(8).
func ip(lines ...string) (commands [][]string) {
	for _, l := range lines {
		commands = append(commands, append([]string{"ip"}, strings.Fields(l)...))
	}
	return commands
}

// vnet is a virtio-net header as the kernel takes it from a packet socket, in host byte order.
type vnet struct {
	flags, kind                      uint8
	header, size, csumStart, csumOff uint16
}

func (v vnet) bytes() []byte {
	b := []byte{v.flags, v.kind}
	for _, n := range []uint16{v.header, v.size, v.csumStart, v.csumOff} {
		b = binary.NativeEndian.AppendUint16(b, n)
	}
	return b
}

// HC-29: virtio-net headers that lie. What the kernel lets pass reaches the datapath.
func TestHC29(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	plain, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	link := sb.OpenPacket(t, rig.DevEth0)
	rc, err := link.File().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	const needsCsum = 1
	counts := map[bool]int{}
	values := []uint16{0, 1, 8, 34, 54, 1400, 1448, 32768, 65535}
	for _, f := range families {
		segment := packettest.TCP(at(f.own, 9000), at(f.x1, 9), packettest.ACK, 1, 1, payload(20000))
		datagram := packettest.UDP(at(f.own, 9000), at(f.x1, 9), payload(20000))
		for i, p := range [][]byte{segment, datagram, segment[:60], datagram[:50]} {
			frame := packettest.Bytes(packettest.Frame(link.MAC, gateway, p))
			for _, kind := range []uint8{0, 1, 3, 4, 5, 0x81, 0x84, 77, 255} {
				for _, flags := range []uint8{0, needsCsum, 2, 4, 255} {
					for k, v := range values {
						h := vnet{flags, kind, v, values[(k+i)%len(values)], values[(k*5+2)%len(values)], values[(k*7+1)%len(values)]}
						counts[link.Send(append(h.bytes(), frame...)) == nil]++
						// As it should be, but for the size of the segments.
						h = vnet{needsCsum, kind, 54, v, 34, 16}
						counts[link.Send(append(h.bytes(), frame...)) == nil]++
					}
					pace(t, plain, gateway)
				}
			}
		}
	}
	t.Logf("%d frames sent, %d refused by the kernel", counts[true], counts[false])
	if counts[true] < 100 {
		t.Errorf("only %d frames came as far as the TAP", counts[true])
	}
	wantAlive(t, r, sb, datapath)
}

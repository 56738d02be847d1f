// Package drop names every reason for which the datapath throws something away, and counts it.
//
// Nothing is lost silently: each early return on the way of a frame adds one to exactly one
// counter. `usernet ps --stats` prints those that are not zero.
package drop

import "sync/atomic"

// Reason says why a frame, packet, query or flow was dropped.
type Reason uint8

// The reasons, in the order a frame meets them.
const (
	// None is not a reason; it is what validators return for good input.
	None Reason = iota

	// At the TAP.
	FrameRunt // shorter than an Ethernet header
	VNetBad   // virtio-net header that contradicts the frame
	TAPFull   // the container's receive queue did not take the frame
	TAPDown   // the device is down or gone

	// In the switch.
	EtherTypeDenied // neither IPv4, IPv6 nor ARP
	SrcGroup        // source address is a group address or zero
	SrcMACSpoofed   // source MAC belongs to another port or is over the port's limit
	SrcIPSpoofed    // source IP, ARP or ND sender is not the port's
	DstUnknown      // no port for the destination
	BroadcastLimit  // more broadcasts per second than a port may send
	PortIsolated    // ports that may not talk to each other
	Loopback        // a loopback address on the wire, other than to the resolver

	// IP, at the gateway.
	IPMalformed // a header that lies
	IPOptions   // source routing and other refused options
	IPFragment  // overlap, overflow or over the reassembly quota
	IPProtocol  // a transport protocol the NAT does not carry
	TTLExceeded // answered with Time Exceeded
	ChecksumBad // IP, TCP, UDP or ICMP checksum
	NotForUs    // multicast and the like, which stay on the link

	// NAT.
	PolicyDenied   // destination the policy refuses
	FilterDenied   // came from an address the flow has not sent to
	FlowLimit      // the container or the process is at its flow limit
	HandshakeLimit // too many TCP handshakes in flight
	SocketError    // the host refused the socket or the send
	QueueFull      // a bounded queue of ours
	ICMPLimit      // over the rate of ICMP errors
	ICMPUnmatched  // ICMP error that quotes no flow of ours

	// DNS.
	DNSMalformed
	DNSLimit // too many queries in flight

	// Published ports.
	PublishLimit // too many clients at once

	reasons
)

var names = [reasons]string{
	"none",
	"frame-runt", "vnet-bad", "tap-full", "tap-down",
	"ethertype-denied", "src-group", "src-mac-spoofed", "src-ip-spoofed", "dst-unknown", "broadcast-limit", "port-isolated", "loopback",
	"ip-malformed", "ip-options", "ip-fragment", "ip-protocol", "ttl-exceeded", "checksum-bad", "not-for-us",
	"policy-denied", "filter-denied", "flow-limit", "handshake-limit", "socket-error", "queue-full", "icmp-limit", "icmp-unmatched",
	"dns-malformed", "dns-limit",
	"publish-limit",
}

func (r Reason) String() string {
	if r < reasons {
		return names[r]
	}
	return "unknown"
}

// Counters counts drops by reason. The zero value is ready; a nil *Counters counts nowhere.
// It is safe for concurrent use.
type Counters struct{ n [reasons]atomic.Uint64 }

// Add counts one drop.
func (c *Counters) Add(r Reason) { c.AddN(r, 1) }

// AddN counts n drops.
func (c *Counters) AddN(r Reason, n int) {
	if c != nil && n > 0 {
		c.n[r].Add(uint64(n))
	}
}

// Get returns one count.
func (c *Counters) Get(r Reason) uint64 {
	if c == nil {
		return 0
	}
	return c.n[r].Load()
}

// Snapshot returns the counts that are not zero, by name.
func (c *Counters) Snapshot() map[string]uint64 {
	m := make(map[string]uint64)
	if c == nil {
		return m
	}
	for r := None + 1; r < reasons; r++ {
		if v := c.n[r].Load(); v > 0 {
			m[r.String()] = v
		}
	}
	return m
}

package ip

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: reassembly (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722).
//
// Fragments of one datagram agree in source, destination, identification and, in IPv4, protocol.
// Each is copied to its place in the datagram's block; a sorted list of spans says which bytes have
// come. When the last fragment has told the length and the spans add up to it, the headers of the
// first fragment are put in front and the whole is parsed again, because an IPv6 fragment may hide
// extension headers. TTL, TOS, DF and options are thus those of the first fragment (RFC 791).
//
//	           first fragment                       spans complete
//	(nothing) ───────────────► collecting ─────────────────────────► returned, forgotten
//	                               │ overlap, two lengths, too long
//	                               ▼
//	                           poisoned ─── timeout or eviction ───► forgotten
//
// A fragment that overlaps another condemns the datagram, all of it and what is still to come
// (RFC 5722; applied to IPv4 too, since no sender overlaps and every evasion does). Only an exact
// repetition, the same bytes at the same place, is ignored; links do duplicate. A poisoned datagram
// holds no memory, only its place, so that its late fragments do not start another.
//
// Fairness (RFC 4787 REQ-14a). A container is a source, told by its MAC, which the switch vouches
// for. Every source has its own quota of bytes and of datagrams, and to make room only the source's
// own oldest datagrams go. So a flood of first fragments costs the flooder its large datagrams and
// nobody else anything. Bytes are counted as allocated, not as received: a single fragment at a high
// offset pays for the block it needs. The oldest go, rather than the newest being refused, because a
// kernel sends the fragments of a datagram in one burst: what is old has lost one and will not
// complete.
//
// A datagram waits for the timeout, an IPv6 one twice as long (30 s and 60 s). Time is passed in;
// each Add looks at its own source's datagrams, Expire at everybody's.

// Defaults for NewReassembler.
const (
	ReassemblyBytes     = 256 << 10
	ReassemblyDatagrams = 64
	ReassemblyTimeout   = 30 * time.Second
)

// idleSources is how many sources without datagrams are kept before they are swept.
const idleSources = 256

// source is one container's share.
type source struct {
	bytes     int
	datagrams []*datagram // oldest first
}

// Reassembler puts fragments together. It is safe for concurrent use.
type Reassembler struct {
	// Drops counts the fragments that came to nothing because their datagram was evicted or timed
	// out; those Add refuses are the caller's to count. Set before use; nil counts nowhere.
	Drops *drop.Counters

	quotaBytes     int
	quotaDatagrams int
	timeout        time.Duration

	mu      sync.Mutex // a leaf: nothing is called while it is held
	sources map[l2.MAC]*source
	spare   []*datagram // forgotten datagrams, to be used again
}

// NewReassembler makes a Reassembler with the given quota for each source. Arguments of zero mean
// ReassemblyBytes, ReassemblyDatagrams and ReassemblyTimeout; IPv6 waits twice the timeout.
func NewReassembler(quotaBytes, quotaDatagrams int, timeout time.Duration) *Reassembler {
	if quotaBytes <= 0 {
		quotaBytes = ReassemblyBytes
	}
	if quotaDatagrams <= 0 {
		quotaDatagrams = ReassemblyDatagrams
	}
	if timeout <= 0 {
		timeout = ReassemblyTimeout
	}
	return &Reassembler{
		quotaBytes: quotaBytes, quotaDatagrams: quotaDatagrams, timeout: timeout,
		sources: make(map[l2.MAC]*source),
	}
}

// Add takes a parsed packet. A packet that is no fragment is returned as it is. A fragment that
// completes its datagram returns the datagram, which the caller hands to Release when it is done
// with it. Otherwise whole is nil: r is None when the fragment was kept (or was a repetition), and
// else why it was dropped.
func (r *Reassembler) Add(now time.Time, p *Packet) (whole *Packet, why drop.Reason) {
	if !p.IsFragment() {
		return p, drop.None
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sourceLocked(p.MAC)
	r.expireLocked(s, now)
	d := r.findLocked(s, now, p)
	if d.state == poisoned {
		return nil, drop.IPFragment
	}
	if !r.placeLocked(s, d, p) {
		r.poisonLocked(s, d)
		return nil, drop.IPFragment
	}
	if d.hdrLen == 0 || d.got != d.total {
		return nil, drop.None
	}
	return r.finishLocked(s, d, p)
}

// Release gives the memory of a reassembled packet back. It does nothing for other packets, and
// forgetting it costs only garbage collection. The packet is not used afterwards.
func (r *Reassembler) Release(p *Packet) {
	if b := p.block; b != nil && p == &b.whole { // not a copy of it
		p.block = nil
		b.free()
	}
}

// Expire forgets what has waited too long. The gateway calls it about once a second.
func (r *Reassembler) Expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for mac, s := range r.sources {
		r.expireLocked(s, now)
		if len(s.datagrams) == 0 {
			delete(r.sources, mac)
		}
	}
}

// Pending returns how many datagrams wait and how many bytes of memory they hold.
func (r *Reassembler) Pending() (datagrams, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sources {
		datagrams += len(s.datagrams)
		bytes += s.bytes
	}
	return datagrams, bytes
}

func (r *Reassembler) sourceLocked(mac l2.MAC) *source {
	if s := r.sources[mac]; s != nil {
		return s
	}
	if len(r.sources) >= idleSources {
		for m, s := range r.sources {
			if len(s.datagrams) == 0 {
				delete(r.sources, m)
			}
		}
	}
	s := &source{}
	r.sources[mac] = s
	return s
}

func (r *Reassembler) expireLocked(s *source, now time.Time) {
	for i := 0; i < len(s.datagrams); {
		if now.Before(s.datagrams[i].expires) {
			i++
			continue
		}
		r.forgetLocked(s, i)
	}
}

// forgetLocked drops datagram i of s and what it holds.
func (r *Reassembler) forgetLocked(s *source, i int) {
	d := s.datagrams[i]
	r.Drops.AddN(drop.IPFragment, len(d.spans))
	r.emptyLocked(s, d)
	s.datagrams = slices.Delete(s.datagrams, i, i+1)
	if len(r.spare) < r.quotaDatagrams {
		r.spare = append(r.spare, d)
	}
}

// emptyLocked takes a datagram's memory from it, and from the source's account.
func (r *Reassembler) emptyLocked(s *source, d *datagram) {
	s.bytes -= d.charge()
	if d.block != nil {
		d.block.free()
		d.block = nil
	}
	d.spans = nil
}

func (r *Reassembler) poisonLocked(s *source, d *datagram) {
	r.Drops.AddN(drop.IPFragment, len(d.spans))
	r.emptyLocked(s, d)
	d.state = poisoned
}

// findLocked returns the datagram p belongs to, a new one if need be.
func (r *Reassembler) findLocked(s *source, now time.Time, p *Packet) *datagram {
	key := datagramKey{src: p.Src, dst: p.Dst, id: p.ID, proto: p.Proto}
	timeout := r.timeout
	if p.Is6() {
		key.proto, timeout = 0, 2*timeout
	}
	for _, d := range s.datagrams {
		if d.key.id == key.id && d.key == key {
			return d
		}
	}
	if len(s.datagrams) >= r.quotaDatagrams {
		r.forgetLocked(s, 0)
	}
	var d *datagram
	if n := len(r.spare); n > 0 {
		d, r.spare = r.spare[n-1], r.spare[:n-1]
	} else {
		d = new(datagram)
	}
	*d = datagram{key: key, expires: now.Add(timeout), total: -1}
	d.spans = d.few[:0]
	s.datagrams = append(s.datagrams, d)
	return d
}

// placeLocked copies a fragment to its place. It reports false when the datagram is to be condemned.
func (r *Reassembler) placeLocked(s *source, d *datagram, p *Packet) bool {
	data := p.Payload()
	from, to := p.FragOff, p.FragOff+len(data)
	if d.total >= 0 && (to > d.total || !p.More && to != d.total) {
		return false
	}
	if !p.More && len(d.spans) > 0 && int(d.spans[len(d.spans)-1].to) > to {
		return false
	}
	i, found := slices.BinarySearchFunc(d.spans, from, func(s span, from int) int { return int(s.from) - from })
	if found {
		// The same place again: a repetition if all of it is the same, down to being the last or not.
		return int(d.spans[i].to) == to && p.More == (to != d.total) && bytes.Equal(d.block.data[headRoom+from:headRoom+to], data)
	}
	if i > 0 && int(d.spans[i-1].to) > from || i < len(d.spans) && int(d.spans[i].from) < to {
		return false
	}
	if !r.growLocked(s, d, to) {
		return false
	}
	copy(d.block.data[headRoom+from:], data)
	d.spans = slices.Insert(d.spans, i, span{uint16(from), uint16(to)})
	d.got += to - from
	if !p.More {
		d.total = to
	}
	if from == 0 {
		return d.keepHeader(p)
	}
	return true
}

// growLocked makes room in d for payload up to `to` and for one more span, evicting older
// datagrams of the same source when the quota asks for it.
func (r *Reassembler) growLocked(s *source, d *datagram, to int) bool {
	class, spans, more := max(classFor(to), blockClass(d)), cap(d.spans), 0
	if class > blockClass(d) {
		more = classSize(class) // the old block goes only after its bytes are copied
	}
	if len(d.spans) == spans {
		spans *= 2
		more += spans * spanSize
	}
	if more == 0 {
		return true
	}
	for i := 0; s.bytes+more > r.quotaBytes; {
		if i == len(s.datagrams) {
			return false
		}
		if v := s.datagrams[i]; v == d || v.state == poisoned {
			i++ // a poisoned one holds nothing
			continue
		}
		r.forgetLocked(s, i)
	}
	s.bytes -= d.charge()
	if class > blockClass(d) {
		b := newBlock(class)
		if d.block != nil {
			copy(b.data, d.block.data)
			d.block.free()
		}
		d.block = b
	}
	if spans > cap(d.spans) {
		d.spans = append(make([]span, 0, spans), d.spans...)
	}
	s.bytes += d.charge()
	return true
}

// finishLocked makes the whole packet of a complete datagram and forgets the datagram.
func (r *Reassembler) finishLocked(s *source, d *datagram, last *Packet) (*Packet, drop.Reason) {
	s.bytes -= d.charge()
	b := d.block
	d.block, d.spans = nil, nil
	i := slices.Index(s.datagrams, d)
	r.forgetLocked(s, i)

	data := b.data[headRoom-d.hdrLen : headRoom+d.total]
	w := &b.whole
	w.reset()
	why := drop.IPFragment
	if last.Is6() {
		if len(data)-HeaderLen6 <= maxPacket {
			binary.BigEndian.PutUint16(data[4:], uint16(len(data)-HeaderLen6))
			why = w.parse6(data)
			w.DF = false
		}
	} else if len(data) <= maxPacket {
		binary.BigEndian.PutUint16(data[2:], uint16(len(data)))
		putHeaderSum(data[:d.hdrLen])
		why = w.parse4(data)
	}
	if why != drop.None {
		b.free()
		return nil, why
	}
	w.MAC, w.Group, w.block = last.MAC, last.Group, b
	return w, drop.None
}

package portfwd

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/usernet/usernet/internal/sys"
)

// cut is a train taken apart as the kernel does.
func cut(data []byte, segment int) (out [][]byte) {
	for segment > 0 && len(data) > segment {
		out = append(out, data[:segment])
		data = data[segment:]
	}
	return append(out, data)
}

// sizesOf are of datagrams that can be joined, and of some that cannot.
var sizesOf = rapid.SampledFrom([]int{0, 1, 5, 5, 5, 8, 1400, 1400, 1400, 9000})

// Whatever is joined on the way to clients comes apart as it went in, and is a train the kernel takes.
func TestReplyTrains(t *testing.T) {
	r := repliesPool.Get().(*replies)
	rapid.Check(t, func(t *rapid.T) {
		clear(r.list)
		r.list, r.arena = r.list[:0], r.arena[:0]
		longest := rapid.SampledFrom([]int32{0, 7, noTrainMax}).Draw(t, "longest")
		u := new(udpServer)
		u.trainMax.Store(longest)
		flows := []*flow{{key: clientKey{group: &flowGroup{server: u}}}, {key: clientKey{group: &flowGroup{server: u}}}}
		type sent struct {
			f    *flow
			data []byte
		}
		var want, have []sent
		for i := range rapid.IntRange(1, 300).Draw(t, "datagrams") {
			f := rapid.SampledFrom(flows).Draw(t, "flow")
			data := bytes.Repeat([]byte{byte(i)}, sizesOf.Draw(t, "size"))
			if !r.add(f, data, 0) {
				break
			}
			want = append(want, sent{f, data})
		}
		for i := range r.list {
			l := &r.list[i]
			parts := cut(r.arena[l.at:l.end], l.segment)
			if len(parts) != l.datagrams() || len(parts) > kernelSegments || len(parts) > 1 && (l.segment > int(longest) || l.end-l.at > trainBytes) {
				t.Fatalf("train of %d bytes by %d, datagrams at most %d", l.end-l.at, l.segment, longest)
			}
			for _, d := range parts {
				have = append(have, sent{l.flow, d})
			}
		}
		if len(have) != len(want) {
			t.Fatalf("%d datagrams, want %d", len(have), len(want))
		}
		for i := range want {
			if have[i].f != want[i].f || !bytes.Equal(have[i].data, want[i].data) {
				t.Fatalf("datagram %d is %d bytes, want %d", i, len(have[i].data), len(want[i].data))
			}
		}
	})
}

// The same on the way to the container, where what comes may be trains already.
func TestArrivalTrains(t *testing.T) {
	const slot = 65535
	memory := make([]byte, slot)
	rapid.Check(t, func(t *rapid.T) {
		f, other := new(flow), new(flow)
		first := rapid.SampledFrom([]int{1, 5, 1400}).Draw(t, "first")
		a := arrival{f, memory[:first:slot], first}
		clear(a.data)
		want := [][]byte{bytes.Clone(a.data)}
		for i := range rapid.IntRange(0, 100).Draw(t, "messages") {
			m := sys.Received{Data: bytes.Repeat([]byte{byte(i + 1)}, sizesOf.Draw(t, "size"))}
			if rapid.Bool().Draw(t, "train") {
				m.Segment = rapid.SampledFrom([]int{1, 5, 1400}).Draw(t, "segment")
			}
			from := rapid.SampledFrom([]*flow{f, f, f, other}).Draw(t, "flow")
			if !a.join(from, &m) {
				continue
			}
			if from != f {
				t.Fatal("datagrams of two flows in one train")
			}
			want = append(want, cut(m.Data, m.Segment)...)
		}
		have := cut(a.data, a.segment)
		if len(a.data) > trainBytes || len(have) > kernelSegments || len(have) != len(want) {
			t.Fatalf("%d bytes, %d datagrams, want %d", len(a.data), len(have), len(want))
		}
		for i := range want {
			if !bytes.Equal(have[i], want[i]) {
				t.Fatalf("datagram %d is %d bytes, want %d", i, len(have[i]), len(want[i]))
			}
		}
	})
}

// Answers of one batch reach the client one by one, in order, whether or not the way out takes trains; a
// refusal is remembered.
func TestUDPRepliesInTrains(t *testing.T) {
	e := &memEmitter{got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	c := udpClient(t, r.publish(t, "127.0.0.1::53/udp", both)[0])
	fmt.Fprint(c, "hi")
	d := <-e.got
	var u *udpServer
	for _, s := range r.servers {
		u = s.server.(*udpServer)
	}
	for _, longest := range []int32{noTrainMax, 0} {
		u.trainMax.Store(longest)
		for i := range 50 {
			if !e.input(d.to, d.from, bytes.Repeat([]byte{byte(i)}, 700), 0) {
				t.Fatal("not recognised as an answer")
			}
		}
		if n := len(u.queue.pending.list); n != 1 && longest > 0 || n != 50 && longest == 0 {
			t.Errorf("%d messages for 50 datagrams, trains of at most %d", n, longest)
		}
		r.Flush()
		buf := make([]byte, 2000)
		for i := range 50 {
			n, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], bytes.Repeat([]byte{byte(i)}, 700)) {
				t.Fatalf("datagram %d: %d bytes, %v", i, n, err)
			}
		}
	}
	u.trainMax.Store(noTrainMax)
	if u.trainRefused(syscall.EINVAL, 1400); u.trainMax.Load() != 1399 {
		t.Errorf("after a refusal of 1400: %d", u.trainMax.Load())
	}
	if u.trainRefused(syscall.EIO, 100); u.trainMax.Load() != 0 {
		t.Errorf("after EIO: %d", u.trainMax.Load())
	}
}

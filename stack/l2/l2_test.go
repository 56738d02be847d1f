package l2_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

func TestParseMAC(t *testing.T) {
	want := l2.MAC{0x02, 0x42, 0xac, 0x11, 0, 2}
	for _, s := range []string{"02:42:ac:11:00:02", "02-42-AC-11-00-02", "0242.ac11.0002"} {
		if m, err := l2.ParseMAC(s); err != nil || m != want {
			t.Errorf("%q is %v, %v", s, m, err)
		}
	}
	for _, s := range []string{"", "02:42", "02:42:ac:11:00:02:03", "02:42:ac:11:00:02:03:04", "02:42:ac:11:00:xx"} {
		if m, err := l2.ParseMAC(s); err == nil || !m.IsZero() {
			t.Errorf("%q is %v, %v, want an error", s, m, err)
		}
	}
}

func TestMACInJSON(t *testing.T) {
	for _, m := range []l2.MAC{{}, {2, 0, 0, 0, 0, 1}, l2.Broadcast} {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := l2.MAC{1}
		if err := json.Unmarshal(b, &got); err != nil || got != m {
			t.Errorf("%v became %s became %v, %v", m, b, got, err)
		}
	}
	got := l2.MAC{1}
	if err := json.Unmarshal([]byte(`"no address"`), &got); err == nil || got != (l2.MAC{1}) {
		t.Errorf("%v, %v, want an error and no change", got, err)
	}
}

func TestGroups(t *testing.T) {
	for m, want := range map[l2.MAC]bool{l2.Broadcast: true, {0x33, 0x33}: true, {0x01}: true, {0x02}: false, {}: false} {
		if m.IsMulticast() != want {
			t.Errorf("%v is a group: %v", m, !want)
		}
	}
}

// The kernel reads what Put writes: struct virtio_net_hdr of linux/virtio_net.h, in the host's order.
func TestVNet(t *testing.T) {
	v := l2.VNet{Flags: l2.VNetNeedsCsum, GSOType: 1, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	b := bytes.Repeat([]byte{0xaa}, l2.VNetLen+1)
	v.Put(b)
	if got := l2.ParseVNet(b); got != v {
		t.Errorf("%+v became %+v", v, got)
	}
	if b[l2.VNetLen] != 0xaa {
		t.Error("Put wrote behind the header")
	}
}

func TestHeader(t *testing.T) {
	dst, src := l2.MAC{2, 0, 0, 0, 0, 1}, l2.MAC{2, 0, 0, 0, 0, 2}
	h := l2.MakeHeader(dst, src, l2.TypeIPv6)
	if h.Dst() != dst || h.Src() != src || h.Type() != l2.TypeIPv6 {
		t.Errorf("header is %x", h)
	}
	if h[12] != 0x86 || h[13] != 0xdd {
		t.Errorf("type is %x, want network order", h[12:])
	}
}

func TestBufIsTakenOnce(t *testing.T) {
	b := l2.HeapAllocator(100)
	if len(b.Data) < 100 || b.Taken() {
		t.Fatalf("new block of %d bytes, taken %v", len(b.Data), b.Taken())
	}
	if !b.Take() || b.Take() || !b.Taken() {
		t.Error("a block must go to the first who takes it and to no other")
	}
	var none *l2.Buf
	if none.Take() {
		t.Error("took a block that is not offered")
	}
}

func TestFrameLen(t *testing.T) {
	f := l2.Frame{L3: [][]byte{make([]byte, 40), nil, make([]byte, 7)}}
	if n := f.Len(); n != 47 {
		t.Errorf("%d bytes, want 47", n)
	}
}

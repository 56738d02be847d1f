package gateway

import (
	"testing"
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/usernet/usernet/stack/l2"
)

// TestLargePacketIsNotCopied: what the TAP's reader read is the memory netstack has, also after netstack has read
// the IP header while it holds a view of it, as it does with every packet.
func TestLargePacketIsNotCopied(t *testing.T) {
	const headers = header.IPv4MinimumSize + header.TCPMinimumSize
	buf := Alloc(64 << 10)
	f := &l2.Frame{Buf: buf, L3: [][]byte{buf.Data[:60000]}}
	pkt := gvstack.NewPacketBuffer(gvstack.PacketBufferOptions{Payload: toBuffer(f, f.L3[0], headers)})
	defer pkt.DecRef()
	if !buf.Taken() {
		t.Fatal("the block was not taken")
	}
	if _, ok := pkt.NetworkHeader().Consume(header.IPv4MinimumSize); !ok {
		t.Fatal("no IP header")
	}
	view := pkt.NetworkHeader().View()
	defer view.Release()
	_ = pkt.NetworkHeader().Slice()
	if _, ok := pkt.TransportHeader().Consume(header.TCPMinimumSize); !ok {
		t.Fatal("no TCP header")
	}
	views, skip := pkt.AsViewList()
	if skip != 0 || views.Len() != 2 {
		t.Fatalf("the packet is %d views, %d bytes skipped, want headers and payload", views.Len(), skip)
	}
	payload := views.Back().AsSlice()
	if len(payload) != 60000-headers || unsafe.SliceData(payload) != unsafe.SliceData(buf.Data[headers:]) {
		t.Errorf("the payload, %d bytes, is not the block's", len(payload))
	}
}

// TestSmallPacketIsCopied: a packet that leaves most of its block empty does not keep it.
func TestSmallPacketIsCopied(t *testing.T) {
	for _, n := range []int{40, 41, 40 + splitThreshold - 1, 40 + splitThreshold, takeThreshold - 1} {
		buf := Alloc(64 << 10)
		f := &l2.Frame{Buf: buf, L3: [][]byte{buf.Data[:n]}}
		b := toBuffer(f, f.L3[0], 40)
		if buf.Taken() || b.Size() != int64(n) {
			t.Errorf("a packet of %d bytes: block taken: %v, netstack has %d bytes", n, buf.Taken(), b.Size())
		}
		b.Release()
		buf.Handle.(*buffer.View).Release()
	}
}

package gateway

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// TestSolicitationForm: what a solicitation must be to be answered (RFC 4861 §7.1.1), whatever the switch has seen to.
func TestSolicitationForm(t *testing.T) {
	own, zero, group := testNet.Gateway6, netip.IPv6Unspecified(), packettest.SolicitedNode(testNet.Gateway6)
	source := append([]byte{1, 1}, containerMAC[:]...)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6} // Linux has one in its DAD (RFC 7527)
	type form struct {
		src, dst netip.Addr
		options  []byte
		answered bool
	}
	for name, tc := range map[string]form{
		"with the sender's link address":      {container6, group, source, true},
		"without":                             {container6, group, nil, true},
		"is it still there (NUD)":             {container6, own, nil, true},
		"with options nobody knows":           {container6, group, append([]byte{200, 2, 15: 0}, source...), true},
		"DAD":                                 {zero, group, nil, true},
		"DAD with a nonce":                    {zero, group, nonce, true},
		"DAD with a link address":             {zero, group, source, false},
		"DAD with a link address behind":      {zero, group, append(nonce, source...), false},
		"DAD to one station":                  {zero, own, nil, false},
		"an option of length 0":               {container6, group, []byte{1, 0, 0, 0, 0, 0, 0, 0}, false},
		"an option longer than the message":   {container6, group, []byte{1, 2, 0, 0, 0, 0, 0, 0}, false},
		"an option without room for a length": {container6, group, []byte{1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.frames(packettest.ND(containerMAC, testNet.GatewayMAC, tc.src, tc.dst, 135, 0, append(own.AsSlice(), tc.options...)))
			want, reason := 1, drop.None
			if !tc.answered {
				want, reason = 0, drop.IPMalformed
			}
			if got := b.link.take(); len(got) != want {
				t.Errorf("%d answers, want %d", len(got), want)
			}
			checkDrops(t, b, reason)
		})
	}
	b := newBench(t)
	forged := packettest.NS(containerMAC, container6, own)
	forged.L3[0][42] ^= 1
	b.frames(forged)
	if got := b.link.take(); len(got) != 0 {
		t.Errorf("answered with a wrong checksum by %s", packettest.Dump(got[0]))
	}
	checkDrops(t, b, drop.ChecksumBad)
}

// TestARPUnicast: who asks whether the gateway is still there, in a frame to it alone, is told (RFC 1122 §2.3.2.1).
func TestARPUnicast(t *testing.T) {
	b := newBench(t)
	f := packettest.ARP(packettest.ARPRequest, containerMAC, container4, l2.MAC{}, testNet.Gateway4)
	f.Header = l2.MakeHeader(testNet.GatewayMAC, containerMAC, l2.TypeARP)
	b.frames(f)
	got := b.link.take()
	if len(got) != 1 {
		t.Fatalf("%d answers, want 1", len(got))
	}
	if err := packettest.Same(packettest.ARP(packettest.ARPReply, testNet.GatewayMAC, testNet.Gateway4, containerMAC, container4))(got[0]); err != nil {
		t.Error(err)
	}
}

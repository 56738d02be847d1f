package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/usernet/usernet/internal/packettest"
)

// TCP as a container sees it: what a peer that says every byte itself gets from the gateway (TCP-01). Each case
// is the behaviour a case of packetimpact asks of a host; behind a gateway "the application" is the outside's
// end of the connection, an ordinary socket.

// conformance are the cases. One with a reason in fails is known not to hold; when it comes to hold the
// test fails until the reason is taken out, so the list can only shrink.
var conformance = []struct {
	name  string
	run   func(t *testing.T, s *scene) error
	fails string
}{
	{"outside the window", outsideTheWindow, ""},
	{"ACK of what was not sent", unacceptableACK, "netstack takes the data of a segment that acknowledges what was not sent (RFC 9293 §3.10.7.4)"},
	{"RST beside the exact sequence number", inexactRST, ""},
	{"SYN in an established connection", establishedSYN, ""},
	{"window shrinks", windowShrinks, ""},
	{"zero window probe", zeroWindowProbe, ""}, // TCP-06
	{"zero receive window", zeroReceiveWindow, ""},
	{"window of the handshake", handshakeWindow, ""},
	{"window on data segments", piggybackWindow, ""},
	{"FIN is retransmitted", finRetransmission, ""},
	{"data is retransmitted", dataRetransmission, ""},
	{"SYN-ACK is retransmitted", synAckRetransmission, ""},
	{"unacceptable ACK in SYN-RCVD", synRcvdACK, "netstack's forwarder completes a handshake with any ACK number (RFC 9293 §3.10.7.4)"},
	{"RST in SYN-RCVD", synRcvdRST, ""},
	{"half-closed by the outside", finWait2, ""},
	{"data with the third segment", dataWithACK, ""},
	{"FIN with data", finWithData, ""},
	{"old timestamp", oldTimestamp, "netstack does not reject old timestamps (PAWS, RFC 7323 §5)"},
	{"RST in TIME-WAIT", timeWaitRST, "netstack leaves TIME-WAIT on no RST (RFC 9293 §3.10.7.4)"},
	{"loss found by time", rack, "RACK is switched off: it takes a reader that is scheduled late for a loss (setTCPOptions)"},
}

// scene is what a case works on: a gateway, an outside, and a connection if it wants one.
type scene struct {
	*bench
	o *outside
	c *client
	h *net.TCPConn
}

// quick shortens what would make a case wait: the least retransmission timeout, and the 500 ms for which netstack
// does not answer another bad segment.
func (s *scene) quick(minRTO time.Duration) {
	rto := tcpip.TCPMinRTOOption(minRTO)
	if err := stackOf(s.t, s.gw).SetTransportProtocolOption(tcp.ProtocolNumber, &rto); err != nil {
		s.t.Fatal(err)
	}
	if err := stackOf(s.t, s.gw).SetOption(gvstack.TCPInvalidRateLimitOption(0)); err != nil {
		s.t.Fatal(err)
	}
}

// establish opens the connection of most cases.
func (s *scene) establish() { s.c, s.h = s.connect(s.o) }

func TestConformance(t *testing.T) {
	for _, tc := range conformance {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := &scene{o: newOutside(t)}
			s.bench = newBench(t, withDial(s.o.dial))
			s.quick(20 * time.Millisecond)
			err := tc.run(t, s)
			switch {
			case err != nil && tc.fails == "":
				t.Error(err)
			case err == nil && tc.fails != "":
				t.Errorf("holds now, so take it off the list: %s", tc.fails)
			}
		})
	}
}

// wantACK sends a segment and expects an ACK that acknowledges no more than before.
func (s *scene) wantACK(what string, flags uint8, seq, ack uint32, payload []byte) error {
	s.c.sendAt(flags, seq, ack, payload)
	p := s.c.next("answer to "+what, func(segment) bool { return true })
	if p.Flags != packettest.ACK || p.Ack != s.c.seq || p.Seq != s.c.ack {
		return fmt.Errorf("%s answered by %v, want an ACK of %d", what, p.Decoded, s.c.seq)
	}
	return nil
}

// wantData checks that the connection still carries exactly what is sent.
func (s *scene) wantData(text string) error {
	s.c.write([]byte(text))
	b := make([]byte, len(text))
	if n, err := io.ReadFull(s.h, b); err != nil || string(b) != text {
		return fmt.Errorf("outside read %q, %v, want %q", b[:n], err, text)
	}
	return nil
}

func outsideTheWindow(_ *testing.T, s *scene) error {
	s.establish()
	for _, off := range []uint32{2 * maxBuffer, 1 << 30, 1<<31 - 1, ^uint32(1), ^uint32(4999)} {
		for _, flags := range []uint8{packettest.ACK, packettest.ACK | packettest.FIN, packettest.ACK | packettest.PSH | packettest.URG} {
			if err := s.wantACK(fmt.Sprintf("segment %d beyond, flags %#x", int32(off), flags), flags, s.c.seq+off, s.c.ack, []byte("x")); err != nil {
				return err
			}
		}
	}
	return s.wantData("still there")
}

// unacceptableACK is harmless: only the container itself can send such a segment, the switch sees to that.
func unacceptableACK(_ *testing.T, s *scene) error {
	s.establish()
	for _, off := range []uint32{1, 1000, 1 << 30} {
		if err := s.wantACK(fmt.Sprintf("ACK %d beyond what was sent", off), packettest.ACK|packettest.PSH, s.c.seq, s.c.ack+off, []byte("bad")); err != nil {
			return err
		}
	}
	return s.wantData("good")
}

func inexactRST(_ *testing.T, s *scene) error {
	s.establish()
	for _, off := range []uint32{1, 2, 100, 0x7fff, 0xfffe} {
		if err := s.wantACK(fmt.Sprintf("RST %d beside", off), packettest.RST, s.c.seq+off, 0, nil); err != nil {
			return err
		}
	}
	s.c.sendAt(packettest.RST, s.c.seq+2*maxBuffer, 0, nil)
	s.c.sendAt(packettest.RST, s.c.seq-1, 0, nil)
	if err := s.wantData("still there"); err != nil {
		return err
	}
	s.c.send(packettest.RST, nil)
	if _, err := s.h.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("after the exact RST outside read %v, want ECONNRESET", err)
	}
	return nil
}

func establishedSYN(_ *testing.T, s *scene) error {
	s.establish()
	for _, off := range []uint32{0, 1, 1000, 2 * maxBuffer, 1 << 30, ^uint32(999)} {
		if err := s.wantACK(fmt.Sprintf("SYN %d beside", int32(off)), packettest.SYN, s.c.seq+off, 0, nil); err != nil {
			return err
		}
	}
	return s.wantData("still there")
}

func windowShrinks(_ *testing.T, s *scene) error {
	s.establish()
	s.c.window = 2000
	s.c.send(packettest.ACK, nil)
	want := bytes.Repeat([]byte("shrinks "), 1000)
	if _, err := s.h.Write(want); err != nil {
		return err
	}
	got, _ := s.c.read(1460)
	s.c.window = 100 // the right edge moves to the left
	s.c.send(packettest.ACK, nil)
	s.c.window = 0xffff
	s.c.send(packettest.ACK, nil)
	more, _ := s.c.read(len(want) - len(got))
	if !bytes.Equal(append(got, more...), want) {
		return errors.New("bytes differ")
	}
	return nil
}

// zeroWindowProbe is also TCP-06: as long as the container answers, its window may stay shut.
func zeroWindowProbe(_ *testing.T, s *scene) error {
	s.establish()
	s.c.window = 0
	s.c.send(packettest.ACK, nil)
	if err := s.wantData("the window is shut"); err != nil { // its ACK was read before
		return err
	}
	want := []byte("after the window opened")
	if _, err := s.h.Write(want); err != nil {
		return err
	}
	for i := range 4 {
		p := s.c.next("probe", func(p segment) bool { return p.Seq == s.c.ack-1 || p.Seq == s.c.ack && len(p.Payload) == 1 })
		if len(p.Payload) > 1 {
			return fmt.Errorf("probe %d is %v", i, p.Decoded)
		}
		s.c.sendAt(packettest.ACK, s.c.seq, s.c.ack, nil)
	}
	s.c.window = 0xffff
	s.c.send(packettest.ACK, nil)
	if got, _ := s.c.read(len(want)); !bytes.Equal(got, want) {
		return fmt.Errorf("read %q", got)
	}
	return nil
}

func zeroReceiveWindow(_ *testing.T, s *scene) error {
	s.establish()
	sent := 0
	for window := 0xffff; window > 0; {
		n := min(window, 1400)
		s.c.write(make([]byte, n))
		if sent += n; sent > 16<<20 {
			return errors.New("16 MiB taken for a reader that does not read")
		}
		window = int(s.c.acked(s.c.seq).window)
	}
	s.c.sendAt(packettest.ACK, s.c.seq, s.c.ack, []byte("z")) // a probe of the container's
	if p := s.c.next("answer to a probe", func(segment) bool { return true }); p.Ack != s.c.seq || p.window != 0 {
		return fmt.Errorf("full receiver answered a byte by %v, window %d", p.Decoded, p.window)
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, s.h, int64(sent))
		read <- err
	}()
	s.c.next("window update", func(p segment) bool { return p.window > 0 })
	if err := <-read; err != nil {
		return err
	}
	return s.wantData("open again")
}

// handshakeWindow: the window of a SYN is not scaled, all others are.
func handshakeWindow(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	s.c.synOpts = []byte{2, 4, 5, 0xb4, 3, 3, 4, 1}
	s.c.window = 1000
	s.c.syn()
	s.h = s.o.accept(s.t)
	if _, err := s.h.Write(make([]byte, 5000)); err != nil {
		return err
	}
	s.c.window = 10
	s.c.send(packettest.ACK, nil)
	return s.wantFlight(160)
}

// wantFlight holds when the gateway sends up to n bytes before an ACK, and no byte more.
func (s *scene) wantFlight(n int) error {
	s.t.Helper()
	got := 0
	for got < n {
		p := s.c.next("data", func(p segment) bool { return len(p.Payload) > 0 && p.Seq == s.c.ack+uint32(got) })
		got += len(p.Payload)
	}
	if got > n {
		return fmt.Errorf("%d bytes sent into a window of %d", got, n)
	}
	s.c.ack += uint32(got)
	return nil
}

func piggybackWindow(_ *testing.T, s *scene) error {
	s.establish()
	s.c.window = 100
	s.c.send(packettest.ACK, nil)
	if err := s.wantData("acknowledged"); err != nil {
		return err
	}
	if _, err := s.h.Write(make([]byte, 5000)); err != nil {
		return err
	}
	for _, window := range []int{100, 500, 50} {
		if err := s.wantFlight(window); err != nil {
			return err
		}
		s.c.window = map[int]uint16{100: 500, 500: 50, 50: 0xffff}[window]
		if err := s.wantData("data with a window"); err != nil {
			return err
		}
	}
	s.c.read(5000 - 650)
	return nil
}

package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
)

// Cases of conformance about retransmission and the states of a connection.

func finRetransmission(_ *testing.T, s *scene) error {
	s.establish()
	s.h.CloseWrite()
	fin := func(p segment) bool { return p.Flags&packettest.FIN != 0 && p.Seq == s.c.ack }
	for range 3 {
		s.c.next("FIN", fin)
	}
	s.c.ack++
	s.c.send(packettest.ACK, nil)
	return s.wantData("the other direction")
}

func dataRetransmission(_ *testing.T, s *scene) error {
	s.establish()
	if _, err := s.h.Write([]byte("again")); err != nil {
		return err
	}
	for range 4 {
		p := s.c.next("data", func(p segment) bool { return len(p.Payload) > 0 })
		if p.Seq != s.c.ack || string(p.Payload) != "again" {
			return fmt.Errorf("sent %v %q", p.Decoded, p.Payload)
		}
	}
	s.c.ack += 5
	s.c.send(packettest.ACK, nil)
	if _, err := s.h.Write([]byte("next")); err != nil {
		return err
	}
	if got, _ := s.c.read(4); string(got) != "next" {
		return fmt.Errorf("read %q", got)
	}
	return nil
}

func synAckRetransmission(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	first := s.c.syn()
	again := s.c.next("SYN-ACK", func(p segment) bool { return p.Flags == packettest.SYN|packettest.ACK })
	if again.Seq != first.Seq || again.Ack != first.Ack {
		return fmt.Errorf("%v, then %v", first.Decoded, again.Decoded)
	}
	s.h = s.o.accept(s.t)
	s.h.SetDeadline(time.Now().Add(packetWait))
	s.c.send(packettest.ACK, nil)
	return s.wantData("late")
}

func synRcvdACK(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	s.c.syn()
	for _, off := range []uint32{1, 1000, ^uint32(0)} {
		bad := s.c.ack + off
		s.c.sendAt(packettest.ACK, s.c.seq, bad, nil)
		waitFor(s.t, func() bool {
			return stackOf(s.t, s.gw).Stats().TCP.ResetsSent.Value() > 0 || s.gw.handshakes.inFlight() == 0
		})
		if s.gw.handshakes.inFlight() == 0 {
			return fmt.Errorf("ACK of %d completed the handshake, want RST", bad)
		}
		p := s.c.next("RST", func(p segment) bool { return p.Flags&packettest.RST != 0 })
		if p.Seq != bad {
			return fmt.Errorf("ACK of %d answered by %v", bad, p.Decoded)
		}
	}
	s.h = s.o.accept(s.t)
	s.h.SetDeadline(time.Now().Add(packetWait))
	s.c.send(packettest.ACK, nil)
	return s.wantData("established")
}

func synRcvdRST(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	s.c.syn()
	s.h = s.o.accept(s.t)
	s.h.SetDeadline(time.Now().Add(packetWait))
	s.c.send(packettest.RST, nil)
	if n, err := s.h.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("outside read %d, %v after the reset", n, err)
	}
	waitFor(s.t, func() bool { return s.gw.handshakes.inFlight() == 0 })
	s.c.isn += 100000
	s.h = s.c.open(s.o)
	return s.wantData("second attempt")
}

func finWait2(_ *testing.T, s *scene) error {
	s.establish()
	s.h.CloseWrite()
	s.c.next("FIN", func(p segment) bool { return p.Flags&packettest.FIN != 0 })
	s.c.ack++
	s.c.send(packettest.ACK, nil)
	if err := s.wantData("half-closed"); err != nil {
		return err
	}
	s.c.send(packettest.FIN|packettest.ACK, nil)
	s.c.acked(s.c.seq)
	if n, err := s.h.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("outside read %d, %v; want EOF", n, err)
	}
	waitFor(s.t, func() bool { return s.gw.Flows() == 0 })
	return nil
}

func dataWithACK(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	s.c.syn()
	s.h = s.o.accept(s.t)
	s.h.SetDeadline(time.Now().Add(packetWait))
	return s.wantData("with the third segment")
}

func finWithData(_ *testing.T, s *scene) error {
	s.establish()
	s.c.send(packettest.ACK|packettest.FIN|packettest.PSH, []byte("last words"))
	b, err := io.ReadAll(s.h)
	if err != nil || string(b) != "last words" {
		return fmt.Errorf("outside read %q, %v", b, err)
	}
	return nil
}

func oldTimestamp(_ *testing.T, s *scene) error {
	s.c = s.newClient(1000)
	stamp := func(v uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, v), 0)
	}
	s.c.synOpts = stamp(100)
	s.c.syn()
	if s.c.synAck.options()[8] == nil {
		return errors.New("no timestamps in the SYN-ACK")
	}
	s.h = s.o.accept(s.t)
	s.h.SetDeadline(time.Now().Add(packetWait))
	s.c.opts = stamp(200)
	if err := s.wantData("a"); err != nil {
		return err
	}
	s.c.opts = stamp(50)
	s.c.sendAt(packettest.ACK|packettest.PSH, s.c.seq, s.c.ack, []byte("b"))
	s.c.opts = stamp(300)
	return s.wantData("c")
}

func timeWaitRST(_ *testing.T, s *scene) error {
	s.establish()
	s.h.CloseWrite()
	s.c.next("FIN", func(p segment) bool { return p.Flags&packettest.FIN != 0 })
	s.c.ack++
	s.c.send(packettest.FIN|packettest.ACK, nil)
	s.c.acked(s.c.seq)
	waitFor(s.t, func() bool { return s.gw.Flows() == 0 })
	s.c.sendAt(packettest.RST, s.c.seq, 0, nil)
	s.c.sendAt(packettest.FIN|packettest.ACK, s.c.seq-1, s.c.ack, nil)
	if p := s.c.next("answer to a FIN", func(segment) bool { return true }); p.Flags&packettest.RST == 0 {
		return fmt.Errorf("after the RST a FIN is answered by %v, want RST", p.Decoded)
	}
	return nil
}

func rack(_ *testing.T, s *scene) error {
	s.quick(time.Second)
	s.c = s.newClient(1000)
	s.c.synOpts = []byte{2, 4, 5, 0xb4, 4, 2, 1, 1}
	s.h = s.c.open(s.o)
	if _, err := s.h.Write(make([]byte, 10000)); err != nil {
		return err
	}
	if err := s.wantFlight(10000); err != nil {
		return err
	}
	s.c.next("retransmission", func(p segment) bool { return len(p.Payload) > 0 })
	if n := stackOf(s.t, s.gw).Stats().TCP.Timeouts.Value(); n != 0 {
		return fmt.Errorf("%d timeouts before the tail was probed", n)
	}
	return nil
}

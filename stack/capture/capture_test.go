package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/capture"
	"github.com/usernet/usernet/stack/l2"
)

var (
	a  = packettest.NewStation(100)
	gw = packettest.NewStation(2)
	at = time.Unix(1_700_000_000, 123_456_789)
)

func ping(seq uint16) l2.Frame {
	return packettest.Frame(a.MAC, gw.MAC, packettest.Echo(a.IP4, gw.IP4, 7, seq, []byte("abcdefgh")))
}

func reply(seq uint16) l2.Frame {
	return packettest.Frame(gw.MAC, a.MAC, packettest.ICMP(gw.IP4, a.IP4, 0, 0, 7<<16|uint32(seq), []byte("abcdefgh")))
}

func open(t *testing.T, w io.Writer, o capture.Options) *capture.Writer {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return at }
	}
	c, err := capture.New(w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// record is one record of a pcap file.
type record struct {
	at   time.Time
	size uint32 // on the wire
	data []byte
}

// read takes a pcap file apart.
func read(t *testing.T, b []byte) (records []record) {
	t.Helper()
	ne := binary.NativeEndian
	if len(b) < 24 || ne.Uint32(b) != 0xa1b23c4d || ne.Uint16(b[4:]) != 2 || ne.Uint16(b[6:]) != 4 || ne.Uint32(b[20:]) != 1 {
		t.Fatalf("no pcap header of nanoseconds and Ethernet: % x", b[:min(len(b), 24)])
	}
	snap := ne.Uint32(b[16:])
	for b = b[24:]; len(b) > 0; {
		if len(b) < 16 {
			t.Fatalf("%d bytes left over", len(b))
		}
		n := ne.Uint32(b[8:])
		if n > snap || int(n) > len(b)-16 {
			t.Fatalf("record of %d bytes in %d", n, len(b)-16)
		}
		records = append(records, record{time.Unix(int64(ne.Uint32(b)), int64(ne.Uint32(b[4:]))), ne.Uint32(b[12:]), b[16 : 16+n]})
		b = b[16+n:]
	}
	return records
}

// Both directions of a port are in the file, in order, and go on unchanged.
func TestBothDirections(t *testing.T) {
	var file bytes.Buffer
	c := open(t, &file, capture.Options{})
	tap := &packettest.Port{Name: "tap eth0", Mtu: 1400}
	p := c.Port(tap)
	var in []l2.Frame
	input := c.Input(func(fs []l2.Frame) {
		in = append(in, fs...)
		p.Output([]l2.Frame{reply(1)})
	})
	big := ping(2)
	big.L3 = [][]byte{big.L3[0][:20], big.L3[0][20:], make([]byte, 60_000)}
	input([]l2.Frame{ping(1), big})
	if p.String() != "tap eth0" || p.MTU() != 1400 {
		t.Errorf("wrapped port is %v with MTU %d", p, p.MTU())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	input([]l2.Frame{ping(3)}) // after Close nothing is recorded, but everything goes on
	if got := tap.Frames(); len(in) != 3 || len(got) != 2 || !packettest.Equal(got[0], reply(1)) {
		t.Errorf("%d frames in and %d out, want 3 and 2", len(in), len(got))
	}
	records := read(t, file.Bytes())
	want := []l2.Frame{ping(1), big, reply(1)}
	if len(records) != len(want) {
		t.Fatalf("%d records, want %d", len(records), len(want))
	}
	for i, f := range want {
		b := packettest.Bytes(f)
		if r := records[i]; !bytes.Equal(r.data, b) || r.size != uint32(len(b)) || !r.at.Equal(at) {
			t.Errorf("record %d: %d of %d bytes at %v, want %d at %v", i, len(r.data), r.size, r.at, len(b), at)
		}
	}
	if s := c.Stats(); s.Written != 3 || s.Missed != 0 {
		t.Errorf("stats %+v, want 3 written", s)
	}
}

// A restarted datapath goes on in the same file.
func TestResume(t *testing.T) {
	var file bytes.Buffer
	for i := range 2 {
		c := open(t, &file, capture.Options{Resume: i > 0})
		c.Record([]l2.Frame{ping(uint16(i))})
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(read(t, file.Bytes())); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

func TestNilWriter(t *testing.T) {
	var c *capture.Writer
	p := &packettest.Port{}
	if c.Port(p) != l2.Port(p) {
		t.Error("a nil Writer wraps the port")
	}
	called := false
	c.Input(func([]l2.Frame) { called = true })(nil)
	c.Record([]l2.Frame{ping(1)})
	if err := c.Close(); err != nil || !called || c.Stats() != (capture.Stats{}) {
		t.Error("a nil Writer is in the way")
	}
}

// tcpdump reads the file. It comes with the packages that the test command installs.
func TestReadsBackWithTcpdump(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Log("tcpdump is not installed; TestBothDirections reads the format without it")
		return
	}
	name := filepath.Join(t.TempDir(), "x.pcap")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := open(t, file, capture.Options{})
	c.Record([]l2.Frame{packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, gw.IP4), ping(1), reply(1)})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// From standard input, so that tcpdump, which gives up root first, need not open the file.
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command(tcpdump, "-n", "-tt", "--nano", "-r", "-")
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tcpdump: %v\n%s", err, out)
	}
	for _, want := range []string{
		"1700000000.123456789 ARP, Request who-has 10.0.2.2 tell 10.0.2.100",
		"IP 10.0.2.100 > 10.0.2.2: ICMP echo request, id 7, seq 1, length 16",
		"IP 10.0.2.2 > 10.0.2.100: ICMP echo reply, id 7, seq 1, length 16",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("tcpdump does not show %q:\n%s", want, out)
		}
	}
}

// slowFile blocks each write after the header until it is let go.
type slowFile struct {
	bytes.Buffer
	writes chan struct{} // one value per write that has begun
	let    chan struct{} // closed to let writes through
}

func (s *slowFile) Write(b []byte) (int, error) {
	if s.Len() > 0 {
		s.writes <- struct{}{}
		<-s.let
	}
	return s.Buffer.Write(b)
}

// While the file does not take anything, Record returns, keeps what there is room for and counts the rest.
func TestSlowFile(t *testing.T) {
	file := &slowFile{writes: make(chan struct{}, 8), let: make(chan struct{})}
	c := open(t, file, capture.Options{})
	c.Record([]l2.Frame{ping(1)})
	<-file.writes // the goroutine is stuck with the first record
	big := l2.Frame{Header: ping(1).Header, L3: [][]byte{make([]byte, 65_535)}}
	const sent = 100
	for range sent {
		c.Record([]l2.Frame{big})
	}
	room := uint64(capture.BufferSize / (16 + 14 + 65_535))
	if s := c.Stats(); s.Missed != sent-room || s.Written != 0 {
		t.Errorf("stats %+v while the file is stuck, want %d missed", s, sent-room)
	}
	close(file.let)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := uint64(len(read(t, file.Bytes()))); n != 1+room || c.Stats().Written != n {
		t.Errorf("%d records in the file and %d written, want %d", n, c.Stats().Written, 1+room)
	}
}

// A pipe that nobody reads does not keep Close waiting for ever.
func TestCloseWithStuckPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c := open(t, w, capture.Options{})
	for range 20 {
		c.Record([]l2.Frame{{L3: [][]byte{make([]byte, 65_535)}}})
	}
	if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Close = %v, want a deadline exceeded", err)
	}
}

// fullFile takes n bytes.
type fullFile struct {
	n      int
	mu     sync.Mutex
	failed int
}

var errFull = errors.New("no space left on device")

func (f *fullFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(b) > f.n {
		f.failed++
		return f.n, errFull
	}
	f.n -= len(b)
	return len(b), nil
}

// An error ends the capture with one line; the port goes on.
func TestFileError(t *testing.T) {
	var log bytes.Buffer
	file := &fullFile{n: 24}
	c := open(t, file, capture.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	tap := &packettest.Port{}
	p := c.Port(tap)
	for range 1000 {
		p.Output([]l2.Frame{ping(1)})
	}
	if err := c.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close = %v, want the error of the file", err)
	}
	if n := len(tap.Frames()); n != 1000 {
		t.Errorf("%d frames went on, want 1000", n)
	}
	if s := c.Stats(); s.Missed != 1000 || s.Written != 0 || file.failed != 1 {
		t.Errorf("stats %+v after %d failed writes, want 1000 missed after one", s, file.failed)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "no space left") {
		t.Errorf("log is not one line with the cause:\n%s", &log)
	}
}

func TestHeaderError(t *testing.T) {
	if _, err := capture.New(&fullFile{}, capture.Options{}); !errors.Is(err, errFull) {
		t.Errorf("New = %v, want the error of the file", err)
	}
}

func TestConcurrentRecord(t *testing.T) {
	var file bytes.Buffer
	c := open(t, &file, capture.Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint16(500) {
				c.Record([]l2.Frame{ping(i), reply(i)})
			}
		})
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, file.Bytes())); n != 4000 {
		t.Errorf("%d records, want 4000", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	c, err := capture.New(io.Discard, capture.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	batch := []l2.Frame{{L3: [][]byte{make([]byte, 1500)}}}
	b.ReportAllocs()
	b.SetBytes(1514)
	for b.Loop() {
		c.Record(batch)
	}
}

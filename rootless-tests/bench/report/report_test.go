package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// sample is a run in which usernet passes every floor.
func sample() *Result {
	r := &Result{
		Machine: Machine{Kernel: "6.18", CPU: "A&B <Fast>", CPUs: 2}, Started: time.Unix(0, 0).UTC(),
		Rounds: 3, Window: time.Second, MTUs: []int{1500, 65520}, Versions: map[string]string{"pasta": "2026"},
	}
	for _, s := range Subjects {
		if s == Podman || s == GvisorTap {
			continue // the one has the second table, the other is seldom there
		}
		for _, mtu := range r.MTUs {
			if !s.HasMTU() {
				mtu = 0
			}
			for m, v := range map[Measure]map[Subject]float64{
				StreamUp:   {Kernel: 20, Relay: 12, Usernet: 9, Slirp: 0.7, Pasta: 0.1},
				StreamDown: {Kernel: 20, Relay: 12, Usernet: 9, Slirp: 1.8, Pasta: 1.0},
				RoundTrip:  {Kernel: 18, Relay: 43, Usernet: 51, Slirp: 46, Pasta: 50},
			} {
				r.Add(s, mtu, m, v[s])
			}
		}
	}
	for s, v := range map[Subject]float64{Usernet: 20, Pasta: 25, Slirp: 40} {
		r.Add(s, 0, StartUp, v)
	}
	for _, m := range []Measure{PublishedUp, PublishedDown} {
		r.Add(Kernel, 0, m, 20)
		r.Add(Usernet, 1500, m, 16)
	}
	for s, v := range map[Subject]float64{Relay: 12, Usernet: 9, Podman: 24} {
		r.Add(s, 1500, Across, v)
	}
	for s, v := range map[Subject]float64{Usernet: 40, Podman: 30} {
		r.Add(s, 1500, LocalNames, v)
	}
	for _, l := range Limits {
		r.Add(Usernet, 0, l.Measure, l.Limit)
	}
	return r
}

func TestValueIsTheMedian(t *testing.T) {
	var r Result
	for _, v := range []float64{5, 100, 4} {
		r.Add(Usernet, 1500, StreamUp, v)
	}
	if got := r.Value(Usernet, 1500, StreamUp); got != 5 {
		t.Errorf("Value = %v, want 5", got)
	}
	if got := r.Value(Usernet, 65520, StreamUp); !math.IsNaN(got) {
		t.Errorf("another MTU has the value %v", got)
	}
	r.Add(Relay, 1500, StreamUp, 7)
	if got := r.Value(Relay, 65520, StreamUp); got != 7 {
		t.Errorf("the relay has no MTU, but a value of %v at 65520", got)
	}
	r.Add(Usernet, 1500, RoundTrip, math.NaN())
	if f := r.find(Usernet, 1500, RoundTrip); f.Error == "" || len(f.Values) != 0 {
		t.Errorf("not a number became %+v", f)
	}
}

func TestBetterPeer(t *testing.T) {
	r := sample()
	for _, row := range []struct {
		m    Measure
		want Subject
	}{{StreamUp, Slirp}, {StreamDown, Slirp}, {RoundTrip, Slirp}, {StartUp, Pasta}, {UDPTrip, ""}} {
		if got := r.BetterPeer(1500, row.m); got != row.want {
			t.Errorf("the better peer of %s is %q, want %q", row.m, got, row.want)
		}
	}
	var one Result
	one.Add(Pasta, 1500, StreamUp, 3)
	one.Fail(Slirp, 1500, StreamUp, "down")
	if got := one.BetterPeer(1500, StreamUp); got != Pasta {
		t.Errorf("one peer alone: %q", got)
	}
}

// TestRatioIsOfRounds: what disturbs a round for both is not in the ratio, and where rounds are missing it is that of the medians.
func TestRatioIsOfRounds(t *testing.T) {
	for _, row := range []struct {
		what              string
		usernet, relay    []float64
		median, low, high float64
	}{
		{"machine twice as slow in one round, three times in another", []float64{10, 5, 10, 3, 10}, []float64{20, 10, 25, 6, 10}, 0.5, 0.5, 0.5},
		{"spread", []float64{1, 2, 3, 4, 5}, []float64{1, 1, 1, 1, 1}, 3, 2, 4},
		{"one round", []float64{3}, []float64{4}, 0.75, math.NaN(), math.NaN()},
		{"a round is missing", []float64{10, 20, 30}, []float64{5, 40}, 20 / 22.5, math.NaN(), math.NaN()},
		{"a zero", []float64{10, 20, 30}, []float64{0, 10, 10}, 2, math.NaN(), math.NaN()},
		{"nothing", nil, nil, math.NaN(), math.NaN(), math.NaN()},
	} {
		got := divide(&Figure{Values: row.usernet}, &Figure{Values: row.relay})
		for _, v := range [][2]float64{{got.Median, row.median}, {got.Low, row.low}, {got.High, row.high}} {
			if v[0] != v[1] && !(math.IsNaN(v[0]) && math.IsNaN(v[1])) {
				t.Errorf("%s: %+v, want %v (%v to %v)", row.what, got, row.median, row.low, row.high)
				break
			}
		}
	}
	if got := divide(nil, &Figure{Values: []float64{1}}); !math.IsNaN(got.Median) || got.show(number) != "" {
		t.Errorf("of nothing: %+v", got)
	}
	if got := (Ratio{1.236, 1.1, 1.333}).show(hundredths); got != "1.24 (1.10–1.33)" {
		t.Errorf("shown as %q", got)
	}
}

// met is a Result in which every floor and limit is just met.
func met() *Result {
	r := &Result{MTUs: []int{floorMTU}}
	for _, m := range []Measure{StreamUp, StreamDown} {
		for s, v := range map[Subject]float64{Relay: 10, Usernet: 9, Slirp: 1.8, Pasta: 1} {
			r.Add(s, floorMTU, m, v)
		}
	}
	for s, v := range map[Subject]float64{Usernet: 10, Slirp: 10, Pasta: 10} {
		r.Add(s, largeMTU, StreamUp, v)
		r.Add(s, largeMTU, StreamDown, v)
	}
	for _, f := range Floors {
		if f.Measure == StreamUp || f.Measure == StreamDown {
			continue
		}
		if f.Against == AgainstOne {
			r.Add(Usernet, floorMTU, f.Measure, 9)
			continue
		}
		to := map[Against]Subject{AgainstKernel: Kernel, AgainstRelay: Relay, AgainstPeer: Slirp, AgainstPasta: Pasta}[f.Against]
		r.Add(to, floorMTU, f.Measure, 100)
		r.Add(Usernet, floorMTU, f.Measure, 100*f.Limit)
	}
	for _, l := range Limits {
		r.Add(Usernet, 0, l.Measure, l.Limit)
	}
	return r
}

// Each program has usernet in its place beside it, and what one of the two lacks has no ratio.
func TestPodmanTable(t *testing.T) {
	var r Result
	for s, v := range map[Subject]float64{PodmanSlirp: 4, PodmanAsSlirp: 11, PodmanAsPasta: 7} {
		r.Add(s, PodmanMTU, StreamUp, v)
	}
	r.Fail(PodmanPasta, PodmanMTU, StreamUp, "no such program")
	var b bytes.Buffer
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"through podman", "TCP stream up Gbit/s 4.00 11.0 2.75 – 7.00 –",
		"podman with pasta at MTU 65520, TCP stream up: no such program",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, &b)
		}
	}
}

func TestFloors(t *testing.T) {
	for _, row := range []struct {
		what  string
		s     Subject
		m     Measure
		v     float64
		wrong int // floors that no longer pass
	}{
		{"as it is", Usernet, StreamUp, 9, 0},
		{"up below both floors", Usernet, StreamUp, 8.9, 2},
		{"up below the relay's, at both MTUs", Relay, StreamUp, 10.1, 2},
		{"down below the better peer's", Slirp, StreamDown, 1.9, 1},
		{"round trip above its floor", Usernet, RoundTrip, 100.1, 1},
		{"start-up slower than pasta's", Usernet, StartUp, 80.1, 1},
		{"from container to container below the relay's", Usernet, Across, 89.9, 1},
		{"names slower than the peer's", Usernet, LocalNames, 99.9, 1},
		{"16 streams below one", Usernet, Streams16Down, 8.9, 1},
		{"a limit passed", Usernet, NetworksCreate, 60.1, 1},
		{"less than the least", Usernet, IdleBeside, 0.94, 1},
	} {
		r := met()
		f := r.find(row.s, 1500, row.m)
		if f == nil {
			f = r.find(row.s, 0, row.m)
		}
		f.Values = []float64{row.v}
		var b bytes.Buffer
		passed, err := r.FloorTable(&b)
		if n := strings.Count(b.String(), "FAIL"); err != nil || n != row.wrong || passed != (n == 0) {
			t.Errorf("%s: %d floors fail, want %d (passed %v, %v):\n%s", row.what, n, row.wrong, passed, err, &b)
		}
	}
}

// TestMissingIsNotPassed: a subject that did not run must not make the check succeed.
func TestMissingIsNotPassed(t *testing.T) {
	var b bytes.Buffer
	passed, err := (&Result{}).FloorTable(&b)
	if n := strings.Count(b.String(), "MISSING"); err != nil || passed || n != len(Floors)+len(LargeFloors)+len(Limits) {
		t.Errorf("passed %v, %d of %d missing, %v", passed, n, len(Floors)+len(LargeFloors)+len(Limits), err)
	}
}

func TestTable(t *testing.T) {
	r := sample()
	r.Fail(Pasta, 1500, Connect, "connection refused")
	var b bytes.Buffer
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"MTU 1500", "MTU 65520", "pasta: 2026", "9.00", "0.75", // 9 of the relay's 12
		"12.86", // 9 of slirp4netns' 0.7
		"pasta at MTU 1500, TCP connect + round trip p50: connection refused",
		"containers of one network, MTU 1500", "0.38", // 9 of podman's 24
		"1000 networks: create                          s    60.0\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &b)
		}
	}
	if alone, _, _ := strings.Cut(b.String(), "containers of one network"); strings.Contains(alone, "podman") {
		t.Errorf("podman has a column where it has no figures:\n%s", alone)
	}
	var width int
	for _, line := range strings.Split(b.String(), "\n") {
		if !strings.HasPrefix(line, "TCP stream up") && !strings.HasPrefix(line, "TCP stream down") {
			continue
		}
		if n := utf8.RuneCountInString(line); width != 0 && n != width {
			t.Errorf("columns are not aligned:\n%s", &b)
		} else {
			width = n
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.0444: "0.044", 1: "1.00", 9.876: "9.88", 12.34: "12.3", 133337: "133337", math.NaN(): "–",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	want := sample()
	var b bytes.Buffer
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, %v; want %+v", got, err, want)
	}
	if _, err := Read(strings.NewReader("{")); err == nil {
		t.Error("half a result was read")
	}
}

// TestSVG: the figure is well-formed, and has a bar of the right length for each value.
func TestSVG(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.SVG(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	rects := 0
	for d := xml.NewDecoder(&b); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "rect" {
			rects++
		}
	}
	// Background; three measures of two subjects without an MTU and three with two; three start-ups; two measures of
	// containers of one network; two of published ports, of two subjects; the memory of an idle connection.
	if want := 1 + 3*(2+3*2) + 3 + 3 + 2 + 2*2 + 1; rects != want {
		t.Errorf("%d rectangles, want %d", rects, want)
	}
	for _, want := range []string{"usernet 65520", "A&amp;B &lt;Fast&gt;", "lower is better", `width="148.0"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the figure lacks %q", want)
		}
	}
	if err := (&Result{}).SVG(io.Discard); err != nil {
		t.Error(err)
	}
}

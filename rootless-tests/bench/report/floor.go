package report

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// floorMTU is where most floors hold: what a user gets without asking. largeMTU is what podman and rootlesskit ask for.
const (
	floorMTU = 1500
	largeMTU = 65520
)

// Against is what a floor compares usernet with.
type Against string

const (
	AgainstKernel = Against(Kernel)
	AgainstRelay  = Against(Relay)
	AgainstSlirp  = Against(Slirp)
	AgainstPasta  = Against(Pasta)

	AgainstPeer Against = "the better peer"
	AgainstOne  Against = "one stream" // usernet's own
)

// oneStream is what AgainstOne compares with.
var oneStream = map[Measure]Measure{
	Streams4Up: StreamUp, Streams16Up: StreamUp, Streams4Down: StreamDown, Streams16Down: StreamDown,
}

// Floor bounds usernet's ratio: from below where higher is better, else from above.
type Floor struct {
	Measure Measure
	Against Against
	Limit   float64
}

// Floors are what usernet is to reach at MTU 1500. They are where the project wants to be, so one that is missed is work
// to do; docs/PERFORMANCE.md has how each stood at the last run.
var Floors = []Floor{
	// The relay makes the same four copies of each byte and nothing else.
	{StreamUp, AgainstRelay, 0.9},
	{StreamDown, AgainstRelay, 0.9},
	// Peers move 1500 bytes for each system call, we 64 KiB: anything less is a large frame gone small.
	{StreamUp, AgainstPeer, 5},
	{StreamDown, AgainstPeer, 5},
	// Streams side by side share what one has, and nothing is lost between them.
	{Streams4Up, AgainstOne, 1},
	{Streams4Down, AgainstOne, 1},
	{Streams16Up, AgainstOne, 1},
	{Streams16Down, AgainstOne, 1},
	{CPUUp, AgainstPeer, 0.7},
	{CPUDown, AgainstPeer, 0.7},
	// Peers are C with one thread and no hand-over. Go pays for its poller once on the way.
	{RoundTrip, AgainstPeer, 1},
	{RoundTripP99, AgainstPeer, 1},
	{RoundTripEarly, AgainstPeer, 1},
	{Connect, AgainstPeer, 1},
	{Connects, AgainstPeer, 1.2},
	{UDPTrip, AgainstPeer, 1},
	{UDPTripEarly, AgainstPeer, 1},
	{UDPSmall, AgainstPeer, 1.5},
	{UDPLarge, AgainstPeer, 1.5},
	// A client on the host's loopback is spliced: nothing is copied beyond what plain loopback copies, but a third process has
	// to have its share.
	{PublishedUp, AgainstKernel, 0.8},
	{PublishedDown, AgainstKernel, 0.8},
	// A client elsewhere is seen with its own address, so its bytes go the way of the container's own connections.
	{FarUp, AgainstRelay, 0.9},
	{FarDown, AgainstRelay, 0.9},
	// The command that people put before others is to be faster than what it replaces.
	{StartUp, AgainstPasta, 0.8},
	// From container to container are the relay's four copies again, and nothing else.
	{Across, AgainstRelay, 0.9},
	// podman's containers ask a name server in C's league, over a bridge of the kernel.
	{LocalNames, AgainstPeer, 1},
}

// LargeFloors hold at MTU 65520, where peers have large units too. pasta's one stream up stands still on Linux 6.18, so
// that is compared with slirp4netns.
var LargeFloors = []Floor{
	{StreamUp, AgainstRelay, 1},
	{StreamDown, AgainstRelay, 1},
	{StreamUp, AgainstSlirp, 1},
	{StreamDown, AgainstPeer, 1},
}

// Limit bounds a figure of usernet as it is, whatever the machine: from below where higher is better, else from above.
type Limit struct {
	Measure Measure
	Limit   float64 // in the Measure's unit
}

// Limits are what a machine of two CPUs must keep. Docker creates a network in some 50 ms, its API answers within a
// person's blink, and memory of the small matters on the machines this is for.
var Limits = []Limit{
	{Unfair16Up, 20},
	{Unfair16Down, 20},
	{UDPPacedLoss, 0},
	{Memory, 30},
	{IdleBytes, 16 << 10},
	{IdleBeside, 0.95},
	{Wakes, 0},
	{NetworksCreate, 60},
	{NetworksMemory, 150},
	{NetworksList, 200},
	{NetworksRestart, 5},
	{NetworksLeft, 5},
	{CrowdAttach, 50},
	{PacedNamesP99, 10},
	{PacedNamesLoss, 0},
}

// CheckLimit says how usernet stands to l, and its figure.
func (r *Result) CheckLimit(l Limit) (Verdict, float64) {
	v := r.Value(Usernet, floorMTU, l.Measure)
	switch {
	case math.IsNaN(v):
		return Missing, v
	case keeps(l.Measure, v, l.Limit):
		return Pass, v
	}
	return Fail, v
}

// keeps tells whether v is on the better side of limit, or is it.
func keeps(m Measure, v, limit float64) bool {
	if definition(m).Better == Higher {
		return v >= limit
	}
	return v <= limit
}

// sign shows on which side that is.
func sign(m Measure) string {
	if definition(m).Better == Higher {
		return "≥"
	}
	return "≤"
}

// Verdict is a Floor's outcome.
type Verdict uint8

const (
	Missing Verdict = iota // one of the two was not measured
	Pass
	Fail
)

var verdictNames = [...]string{Missing: "MISSING", Pass: "PASS", Fail: "FAIL"}

func (v Verdict) String() string { return verdictNames[v] }

// Check says how usernet stands to f at mtu, and its ratio.
func (r *Result) Check(f Floor, mtu int) (Verdict, Ratio) {
	to := r.of(Subject(f.Against), mtu, f.Measure)
	switch f.Against {
	case AgainstPeer:
		to = r.of(r.BetterPeer(mtu, f.Measure), mtu, f.Measure)
	case AgainstOne:
		to = r.of(Usernet, mtu, oneStream[f.Measure])
	}
	ratio := divide(r.of(Usernet, mtu, f.Measure), to)
	switch {
	case math.IsNaN(ratio.Median) || math.IsInf(ratio.Median, 0):
		return Missing, ratio
	case keeps(f.Measure, ratio.Median, f.Limit):
		return Pass, ratio
	}
	return Fail, ratio
}

// FloorTable writes every floor and limit with its verdict and tells whether all passed.
func (r *Result) FloorTable(w io.Writer) (passed bool, err error) {
	passed = true
	var b strings.Builder
	for _, at := range []struct {
		mtu    int
		floors []Floor
	}{{floorMTU, Floors}, {largeMTU, LargeFloors}} {
		rows := [][]string{{fmt.Sprintf("floor at MTU %d", at.mtu), "", "ratio", "limit", ""}}
		for _, f := range at.floors {
			v, ratio := r.Check(f, at.mtu)
			passed = passed && v == Pass
			rows = append(rows, []string{definition(f.Measure).Title, "to " + string(f.Against),
				cmp.Or(ratio.show(number), "–"), fmt.Sprintf("%s %.1f", sign(f.Measure), f.Limit), v.String()})
		}
		align(&b, rows)
		b.WriteString("\n")
	}
	rows := [][]string{{"limit", "", "is", "limit", ""}}
	for _, l := range Limits {
		v, is := r.CheckLimit(l)
		passed = passed && v == Pass
		d := definition(l.Measure)
		rows = append(rows, []string{d.Title, d.Unit, number(is), sign(l.Measure) + " " + strconv.FormatFloat(l.Limit, 'f', -1, 64), v.String()})
	}
	align(&b, rows)
	_, err = io.WriteString(w, b.String())
	return passed, err
}

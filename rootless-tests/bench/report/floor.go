package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// floorMTU is where the floors hold: what a user gets without asking.
const floorMTU = 1500

// Against is what a floor compares usernet with.
type Against string

const (
	AgainstRelay Against = "relay"
	AgainstPeer  Against = "the better peer"
	AgainstPasta Against = "pasta"
)

// Floor bounds usernet's ratio: from below where higher is better, else from above.
type Floor struct {
	Measure Measure
	Against Against
	Limit   float64
}

// Floors are what usernet must reach at MTU 1500.
var Floors = []Floor{
	// The relay makes the same four copies of each byte and nothing else; a prototype reached 0.65 to 0.85.
	{StreamUp, AgainstRelay, 0.6},
	{StreamDown, AgainstRelay, 0.6},
	// Peers move 1500 bytes for each system call, we 64 KiB: anything less than 4 is a large frame gone small.
	{StreamUp, AgainstPeer, 4},
	{StreamDown, AgainstPeer, 4},
	// Peers are C with one thread and no hand-over. Go pays for its poller once on the way.
	{RoundTrip, AgainstPeer, 1.5},
	// The command that people put before others must not be slower than what it replaces.
	{StartUp, AgainstPasta, 1},
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

// Check says how usernet stands to f, and its ratio.
func (r *Result) Check(f Floor) (Verdict, float64) {
	var to float64
	switch f.Against {
	case AgainstRelay:
		to = r.Value(Relay, floorMTU, f.Measure)
	case AgainstPeer:
		to = r.BetterPeer(floorMTU, f.Measure)
	case AgainstPasta:
		to = r.Value(Pasta, floorMTU, f.Measure)
	}
	ratio := r.Value(Usernet, floorMTU, f.Measure) / to
	switch {
	case math.IsNaN(ratio) || math.IsInf(ratio, 0):
		return Missing, ratio
	case definition(f.Measure).Better == Higher && ratio >= f.Limit, definition(f.Measure).Better == Lower && ratio <= f.Limit:
		return Pass, ratio
	}
	return Fail, ratio
}

// FloorTable writes every floor with its verdict and tells whether all passed.
func (r *Result) FloorTable(w io.Writer) (passed bool, err error) {
	rows := [][]string{{"floor at MTU 1500", "", "ratio", "limit", ""}}
	passed = true
	for _, f := range Floors {
		v, ratio := r.Check(f)
		passed = passed && v == Pass
		sign := "≤"
		if definition(f.Measure).Better == Higher {
			sign = "≥"
		}
		rows = append(rows, []string{definition(f.Measure).Title, "to " + string(f.Against),
			number(ratio), fmt.Sprintf("%s %.1f", sign, f.Limit), v.String()})
	}
	var b strings.Builder
	align(&b, rows)
	_, err = io.WriteString(w, b.String())
	return passed, err
}

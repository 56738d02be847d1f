package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/stats"
)

// Result is one run of the bench.
type Result struct {
	Machine  Machine           `json:"machine"`
	Started  time.Time         `json:"started"`
	Rounds   int               `json:"rounds"`
	Window   time.Duration     `json:"window_ns"` // of each measurement
	MTUs     []int             `json:"mtus"`
	Versions map[string]string `json:"versions"`
	Figures  []Figure          `json:"figures"`
	// Notes are sentences for the reader, such as what iperf3 says to the load tool's figure.
	Notes []string `json:"notes,omitempty"`
}

// Machine is where it ran; figures of different machines do not compare.
type Machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
}

// Figure is one Measure of one Subject.
type Figure struct {
	Subject Subject `json:"subject"`
	MTU     int     `json:"mtu,omitempty"` // 0: the subject has none, or it makes no difference
	Measure Measure `json:"measure"`
	// Values are one for each round, or for each of its turns, in the unit of the Measure's Definition.
	Values []float64 `json:"values,omitempty"`
	Error  string    `json:"error,omitempty"` // the last one; there may be values of other rounds
}

// Add records a value. Values that JSON cannot hold are an error of their own.
func (r *Result) Add(s Subject, mtu int, m Measure, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		r.Fail(s, mtu, m, "not a number")
		return
	}
	f := r.figure(s, mtu, m)
	f.Values = append(f.Values, v)
}

// Fail records why there is no value.
func (r *Result) Fail(s Subject, mtu int, m Measure, why string) {
	r.figure(s, mtu, m).Error = why
}

func (r *Result) figure(s Subject, mtu int, m Measure) *Figure {
	if !s.HasMTU() {
		mtu = 0
	}
	if f := r.find(s, mtu, m); f != nil {
		return f
	}
	r.Figures = append(r.Figures, Figure{Subject: s, MTU: mtu, Measure: m})
	return &r.Figures[len(r.Figures)-1]
}

func (r *Result) find(s Subject, mtu int, m Measure) *Figure {
	for i := range r.Figures {
		if f := &r.Figures[i]; f.Subject == s && f.MTU == mtu && f.Measure == m {
			return f
		}
	}
	return nil
}

// of is the figure of s at mtu, or of s where the MTU makes no difference; nil when there is none.
func (r *Result) of(s Subject, mtu int, m Measure) *Figure {
	if f := r.find(s, mtu, m); f != nil {
		return f
	}
	return r.find(s, 0, m)
}

// Value is the median of s at mtu, or of s where the MTU makes no difference; NaN when nothing was measured.
func (r *Result) Value(s Subject, mtu int, m Measure) float64 {
	f := r.of(s, mtu, m)
	if f == nil {
		return math.NaN()
	}
	return stats.Median(f.Values)
}

// BetterPeer is the one of the other programs whose value is the best; none has a value when it is the empty Subject.
func (r *Result) BetterPeer(mtu int, m Measure) (better Subject) {
	best := math.NaN()
	for _, s := range peers {
		v := r.Value(s, mtu, m)
		if math.IsNaN(v) || !math.IsNaN(best) && (v == best || (v > best) != bool(definition(m).Better)) {
			continue
		}
		best, better = v, s
	}
	return better
}

// Has tells whether any of these was measured of s, or tried.
func (r *Result) Has(s Subject, of []Definition) bool {
	return slices.ContainsFunc(r.Figures, func(f Figure) bool {
		return f.Subject == s && slices.ContainsFunc(of, func(d Definition) bool { return d.Measure == f.Measure })
	})
}

// Write writes r as JSON.
func (r *Result) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(from io.Reader) (*Result, error) {
	var r Result
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	return &r, nil
}

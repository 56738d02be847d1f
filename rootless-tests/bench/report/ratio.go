package report

import (
	"math"
	"strconv"

	"github.com/usernet/usernet/rootless-tests/bench/stats"
)

// Theory of operation
//
// A ratio is the median of the rounds' own ratios, and not the ratio of the medians. Within a round, a thing is measured on all subjects within
// seconds, and what a machine's neighbours take from it lasts longer than that: it takes from both, and their ratio hardly moves, while the
// median of one subject may come from a good round and that of the other from a bad one. In runs kept from quiet and from busy machines ratios of a
// round scattered less than ratios across rounds, 9 % instead of 11 and 26 instead of 41 (standard deviations, medians of 115 cells); and drawn from
// 30 rounds of round trips, five in a row at a time, medians of ratios scattered less than ratios of medians in 17 of 24 cells.
//
// Where a subject failed in a round, or was given up, there are no pairs, and the ratio is that of the medians. So is that of what can be 0.

// Ratio compares two figures.
type Ratio struct {
	Median    float64 // NaN when one of the two was not measured
	Low, High float64 // quartiles of the rounds' ratios; NaN where there are no pairs, or only one
}

// divide is a's ratio to b. Either may be nil.
func divide(a, b *Figure) Ratio {
	none := Ratio{math.NaN(), math.NaN(), math.NaN()}
	if a == nil || b == nil {
		return none
	}
	none.Median = stats.Median(a.Values) / stats.Median(b.Values)
	if len(a.Values) != len(b.Values) || len(a.Values) == 0 {
		return none
	}
	ratios := make([]float64, len(a.Values))
	for i := range ratios {
		ratios[i] = a.Values[i] / b.Values[i]
		if math.IsNaN(ratios[i]) || math.IsInf(ratios[i], 0) {
			return none
		}
	}
	r := Ratio{stats.Median(ratios), math.NaN(), math.NaN()}
	if len(ratios) > 1 {
		r.Low, r.High = stats.Quantile(ratios, 0.25), stats.Quantile(ratios, 0.75)
	}
	return r
}

// show is the ratio with its spread, as one cell; empty when there is none.
func (q Ratio) show(digits func(float64) string) string {
	if math.IsNaN(q.Median) || math.IsInf(q.Median, 0) {
		return ""
	}
	if math.IsNaN(q.Low) {
		return digits(q.Median)
	}
	return digits(q.Median) + " (" + digits(q.Low) + "–" + digits(q.High) + ")"
}

// hundredths are the digits of a ratio, as far as they say something.
func hundredths(v float64) string {
	if v >= 100 {
		return number(v)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

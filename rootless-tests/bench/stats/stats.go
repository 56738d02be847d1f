// Package stats condenses samples. The bench reports medians: on a shared machine the mean of a few runs is
// the story of the one that was disturbed.
package stats

import (
	"math"
	"slices"
)

// Median is the middle of v, or the mean of the two in the middle; NaN when v is empty. v keeps its order.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// Quantile is the value below which the share q (0 to 1) of v lies, linear between neighbours (type 7 of
// Hyndman and Fan, 1996: what R and NumPy do); NaN when v is empty. v keeps its order.
func Quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Clone(v)
	slices.Sort(s)
	at := min(max(q, 0), 1) * float64(len(s)-1)
	low := int(at)
	if low == len(s)-1 {
		return s[low]
	}
	return s[low] + (at-float64(low))*(s[low+1]-s[low])
}

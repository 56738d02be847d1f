package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, row := range []struct {
		v    []float64
		q    float64
		want float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.25, 2},
		{[]float64{1, 2}, 0.99, 1.99},
		{[]float64{1, 2}, 1, 2},
		{[]float64{1, 2}, 7, 2},
		{[]float64{1, 2}, -1, 1},
	} {
		if got := Quantile(row.v, row.q); math.Abs(got-row.want) > 1e-12 {
			t.Errorf("Quantile(%v, %v) = %v, want %v", row.v, row.q, got, row.want)
		}
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

// TestQuantileKeepsOrder: callers print the samples in the order of the rounds.
func TestQuantileKeepsOrder(t *testing.T) {
	v := []float64{3, 1, 2}
	Median(v)
	if !slices.Equal(v, []float64{3, 1, 2}) {
		t.Errorf("Median reordered its argument: %v", v)
	}
}

// TestQuantileSplits: at most the share q of the values lies below the quantile, and at most 1-q above.
func TestQuantileSplits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		v := make([]float64, 1+r.IntN(40))
		for i := range v {
			v[i] = float64(r.IntN(10))
		}
		q := r.Float64()
		got, below, above := Quantile(v, q), 0, 0
		for _, x := range v {
			if x < got {
				below++
			}
			if x > got {
				above++
			}
		}
		n := float64(len(v) - 1)
		if float64(below) > q*n+1 || float64(above) > (1-q)*n+1 {
			t.Fatalf("Quantile(%v, %v) = %v with %d below and %d above", v, q, got, below, above)
		}
	}
}

//go:build !race

package proctest

import "testing"

var sink int

// A loop of twice the turns takes twice the instructions.
func TestInstructions(t *testing.T) {
	loop := func(turns int) func() {
		return func() {
			for i := range turns {
				sink += i
			}
		}
	}
	var n [2]int
	for i, turns := range []int{1000, 2000} {
		t.Run([]string{"once", "twice"}[i], func(t *testing.T) { n[i] = Instructions(t, loop(turns)) })
	}
	t.Log(n)
	if n[0] < 2000 || n[1] < 2*n[0]-100 || n[1] > 2*n[0]+100 {
		t.Errorf("counted %v instructions", n)
	}
}

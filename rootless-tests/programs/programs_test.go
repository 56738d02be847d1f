package programs

import (
	"io"
	"slices"
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	missing, err := Missing(Tests, Bench)
	if err != nil {
		t.Fatal(err)
	}
	// iperf3 is in both lists, nsenter and newuidmap are in packages with others.
	for _, p := range []string{"iperf3", "passt", "uidmap"} {
		if n := len(slices.DeleteFunc(slices.Clone(missing), func(m string) bool { return m != p })); n != 1 {
			t.Errorf("%s is listed %d times in %v", p, n, missing)
		}
	}
	if !slices.IsSorted(missing) {
		t.Errorf("%v is not sorted", missing)
	}
}

func TestNoPurpose(t *testing.T) {
	if err := Provide(io.Discard, "tests", "fun"); err == nil || !strings.Contains(err.Error(), `no purpose "fun"`) {
		t.Errorf("error is %v", err)
	}
}

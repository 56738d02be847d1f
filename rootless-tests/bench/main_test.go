package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/report"
)

func TestParseOptions(t *testing.T) {
	o, err := parseOptions([]string{"--quick", "--mtu", "1500", "--subjects", "pasta,usernet"})
	if err != nil {
		t.Fatal(err)
	}
	// Subjects come in the table's order, however they are asked for.
	if want := []report.Subject{report.Usernet, report.Pasta}; !reflect.DeepEqual(o.subjects, want) || !reflect.DeepEqual(o.mtus, []int{1500}) {
		t.Errorf("subjects %v at %v, want %v", o.subjects, o.mtus, want)
	}
	if o.repeat != 1 || o.window != 300*time.Millisecond {
		t.Errorf("quick: %d rounds of %v", o.repeat, o.window)
	}
	if o, err = parseOptions([]string{"--quick", "--repeat", "5"}); err != nil || o.repeat != 5 {
		t.Errorf("--repeat 5: %d rounds, %v", o.repeat, err)
	}
	for _, bad := range [][]string{
		{"--mtu", "99"}, {"--mtu", "1500,"}, {"--mtu", "65536"}, {"--subjects", "vpnkit"}, {"--subjects", ""}, {"fast"},
	} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("parseOptions(%q) succeeds", bad)
		}
	}
}

package main

import (
	"errors"
	"reflect"
	"slices"
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

// What fails is tried again in the next round, and then no more; what worked in between stays, and other steps go on.
func TestGivesUp(t *testing.T) {
	tries := 0
	fails := step{name: "stream up", fails: report.StreamUp, turns: 1, run: func(*meter, *sandbox, time.Duration) (map[report.Measure]float64, error) {
		if tries++; tries == 2 {
			return map[report.Measure]float64{report.StreamUp: 3}, nil
		}
		return nil, errors.New("no progress")
	}}
	works := step{name: "stream down", fails: report.StreamDown, turns: 1, run: func(*meter, *sandbox, time.Duration) (map[report.Measure]float64, error) {
		return map[report.Measure]float64{report.StreamDown: 4}, nil
	}}
	m, s := &meter{result: &report.Result{}}, &sandbox{subject: report.Slirp, mtu: 1500}
	for range 5 {
		m.take(fails, s)
		m.take(works, s)
	}
	want := []report.Figure{
		{Subject: report.Slirp, MTU: 1500, Measure: report.StreamUp, Values: []float64{3}, Error: "given up after failing 2 times: no progress"},
		{Subject: report.Slirp, MTU: 1500, Measure: report.StreamDown, Values: []float64{4, 4, 4, 4, 4}},
	}
	if !reflect.DeepEqual(m.result.Figures, want) || tries != 3 {
		t.Errorf("after %d tries: %+v, want %+v", tries, m.result.Figures, want)
	}
}

// podman's containers, which take a second to set up, are only for what needs them.
func TestWantsPodman(t *testing.T) {
	for _, row := range []struct {
		args []string
		want bool
	}{
		{nil, true},
		{[]string{"--subjects", "usernet,pasta"}, false},
		{[]string{"--only", "stream up"}, false},
		{[]string{"--only", "stream up,names"}, true},
	} {
		if o, err := parseOptions(row.args); err != nil || o.wantsPodman() != row.want {
			t.Errorf("%q: wants podman %v, %v", row.args, o.wantsPodman(), err)
		}
	}
}

// What is measured through podman is so when podman and that step are asked for.
func TestWantsThrough(t *testing.T) {
	for _, row := range []struct {
		args []string
		want bool
	}{
		{nil, true},
		{[]string{"--subjects", "usernet,pasta"}, false},
		{[]string{"--only", "stream up,names"}, false},
		{[]string{"--only", "through podman"}, true},
	} {
		if o, err := parseOptions(row.args); err != nil || o.wantsThrough() != row.want {
			t.Errorf("%q: wants it %v, %v", row.args, o.wantsThrough(), err)
		}
	}
	for _, name := range throughSteps {
		if !slices.ContainsFunc(steps, func(st step) bool { return st.name == name }) {
			t.Errorf("there is no step %q", name)
		}
	}
}

// Whoever waits for containers is told the first thing that went wrong with them, not the last.
func TestComplaints(t *testing.T) {
	var c complaints
	if err := c.err(); err != nil {
		t.Errorf("nothing was complained of: %v", err)
	}
	for _, line := range []string{"first\n", "second\n"} {
		if n, err := c.Write([]byte(line)); n != len(line) || err != nil {
			t.Error(n, err)
		}
	}
	if err := c.err(); err == nil || err.Error() != "first" {
		t.Errorf("complaint %v", err)
	}
}

// Each thing is measured on all subjects as often as it has turns, of which each takes its share of the window, and another one begins each
// time. None is left out for want of turns.
func TestTurns(t *testing.T) {
	var order []string
	st := step{name: "trip", turns: 3, run: func(_ *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		order = append(order, s.name)
		if window != time.Second {
			t.Errorf("a turn of %v", window)
		}
		return nil, nil
	}}
	m := &meter{options: options{window: 3 * time.Second}, result: &report.Result{}, sandboxes: []*sandbox{{name: "a"}, {name: "b"}}}
	m.takeAll(st, 1)
	if want := []string{"b", "a", "a", "b", "b", "a"}; !reflect.DeepEqual(order, want) {
		t.Errorf("measured %v, want %v", order, want)
	}
	for _, st := range steps {
		if st.turns < 1 {
			t.Errorf("%s is never measured", st.name)
		}
	}
}

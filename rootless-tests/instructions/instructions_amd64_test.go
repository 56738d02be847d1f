package instructions

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/programs"
)

func TestMain(m *testing.M) {
	if err := programs.Provide(os.Stderr, programs.Instructions); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// attempts is how often a count that is too high is repeated.
const attempts = 4

// TestInstructions counts every row, and fails for those that have come to cost more. With -v it tells all counts.
func TestInstructions(t *testing.T) {
	dir, cpus := build(t), allowed(t)
	for i, r := range rows {
		on := machine{dir, cpus[i%len(cpus)]}
		t.Run(r.what, func(t *testing.T) {
			t.Parallel()
			most := float64(r.cost) * r.slack
			least := r.count(t, on)
			for n := 1; least > most && n < attempts; n++ {
				least = min(least, r.count(t, on))
			}
			t.Logf("%.0f instructions per %s, %+.1f %% of %d", least, r.unit, 100*(least/float64(r.cost)-1), r.cost)
			if least > most {
				t.Errorf("%s (%s in %s): %.0f instructions per %s, want %.0f at most; `valgrind --tool=callgrind` and callgrind_annotate tell where they are",
					r.what, r.bench, r.pkg, least, r.unit, most)
			}
		})
	}
}

// build makes the test program of each package in a directory.
func build(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	args := []string{"test", "-c", "-o", dir + "/"}
	for _, r := range rows {
		if p := "./" + r.pkg; !slices.Contains(args, p) {
			args = append(args, p)
		}
	}
	run(t, command(root, []string{"CGO_ENABLED=0"}, "go", args...))
	return dir
}

// root is the module's, from here.
const root = "../.."

// more is how many times as many iterations the second run has.
const more = 5

// machine is where a row is counted.
type machine struct {
	programs string // the directory of the test programs
	cpu      int
}

// count tells the instructions for a unit.
func (r *row) count(t *testing.T, on machine) float64 {
	t.Helper()
	few, many := r.run(t, on, r.n), r.run(t, on, more*r.n)
	cost, err := perUnit(few, many, (more-1)*r.n*r.units)
	if err != nil {
		t.Fatalf("%s in %s: %v", r.bench, r.pkg, err)
	}
	return cost
}

// run counts the instructions of a run of the benchmark.
func (r *row) run(t *testing.T, on machine, iterations int) uint64 {
	t.Helper()
	program := path.Join(on.programs, path.Base(r.pkg)+".test")
	cmd := command(path.Join(root, r.pkg), settings, "taskset", "--cpu-list", strconv.Itoa(on.cpu),
		"valgrind", "--tool=cachegrind", "--cache-sim=no", "--branch-sim=no", "--cachegrind-out-file=/dev/null", "--fair-sched=yes",
		"--vgdb=no", // whose pipes stay in /tmp when the test is stopped
		program, "-test.run=^$", "-test.bench="+r.bench, fmt.Sprintf("-test.benchtime=%dx", iterations))
	if r.inside != "" {
		cmd.Env = append(cmd.Env, r.inside)
		inNamespaces(cmd)
	}
	out := run(t, cmd)
	if n := strings.Count(out, "\nBenchmark"); n != 1 {
		t.Fatalf("%s in %s: %d benchmarks ran, want 1:\n%s", r.bench, r.pkg, n, out)
	}
	n, err := parseCount(out)
	if err != nil {
		t.Fatalf("%s in %s: %v:\n%s", r.bench, r.pkg, err, out)
	}
	return n
}

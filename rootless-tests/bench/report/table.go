package report

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table writes the medians, one table for each MTU, with usernet's ratio to the relay and to the better peer.
func (r *Result) Table(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs, kernel %s; medians of %d rounds of %v; ratios within a round, their median (and quartiles)\n",
		r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Rounds, r.Window)
	for _, name := range []string{"usernet", "slirp4netns", "pasta", "rootlesskit", "podman", "podman 5", "netavark", "aardvark-dns", "iperf3"} {
		if v := r.Versions[name]; v != "" {
			fmt.Fprintf(&b, "  %s: %s\n", name, v)
		}
	}
	for _, mtu := range r.MTUs {
		if rows := r.rows(mtu, Definitions); len(rows) > 1 {
			fmt.Fprintf(&b, "\nMTU %d\n", mtu)
			align(&b, rows)
		}
	}
	if rows := r.podmanRows(); len(rows) > 1 {
		fmt.Fprintf(&b, "\nthrough podman, with the distribution's program and with usernet in its place, MTU %d\n", PodmanMTU)
		align(&b, rows)
	}
	if rows := r.rows(floorMTU, NetworkDefinitions); len(rows) > 1 {
		fmt.Fprintf(&b, "\ncontainers of one network, MTU %d\n", floorMTU)
		align(&b, rows)
	}
	if rows := r.scaleRows(); len(rows) > 0 {
		b.WriteString("\nmany networks and containers\n")
		align(&b, rows)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	r.errors(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// rows has a header, and a row for each Measure that anything has a value of.
func (r *Result) rows(mtu int, of []Definition) [][]string {
	subjects := slices.DeleteFunc(slices.Clone(Subjects), func(s Subject) bool { return !r.Has(s, of) })
	header := []string{"", ""}
	for _, s := range subjects {
		header = append(header, string(s))
	}
	rows := [][]string{append(header, "usernet/relay", "usernet/peer")}
	for _, d := range of {
		row, any := []string{d.Title, d.Unit}, false
		for _, s := range subjects {
			v := r.Value(s, mtu, d.Measure)
			any = any || !math.IsNaN(v)
			row = append(row, number(v))
		}
		if !any {
			continue
		}
		row = append(row, r.ratio(d, mtu, Relay), r.ratio(d, mtu, r.BetterPeer(mtu, d.Measure)))
		rows = append(rows, row)
	}
	return rows
}

// podmanRows compares usernet with each program in whose place it is called.
func (r *Result) podmanRows() [][]string {
	rows := [][]string{{"", "", "slirp4netns", "usernet", "ratio", "pasta", "usernet", "ratio"}}
	for _, m := range podmanMeasures {
		d := definition(m)
		row, any := []string{d.Title, d.Unit}, false
		for _, pair := range [][2]Subject{{PodmanSlirp, PodmanAsSlirp}, {PodmanPasta, PodmanAsPasta}} {
			original, ours := r.Value(pair[0], PodmanMTU, m), r.Value(pair[1], PodmanMTU, m)
			any = any || !math.IsNaN(original) || !math.IsNaN(ours)
			ratio := divide(r.of(pair[1], PodmanMTU, m), r.of(pair[0], PodmanMTU, m))
			row = append(row, number(original), number(ours), cmp.Or(ratio.show(hundredths), "–"))
		}
		if any {
			rows = append(rows, row)
		}
	}
	return rows
}

// scaleRows has no header: usernet is alone.
func (r *Result) scaleRows() (rows [][]string) {
	for _, d := range ScaleDefinitions {
		if v := r.Value(Usernet, 0, d.Measure); !math.IsNaN(v) {
			rows = append(rows, []string{d.Title, d.Unit, number(v)})
		}
	}
	return rows
}

// ratio is the cell of usernet's ratio to a subject.
func (r *Result) ratio(d Definition, mtu int, to Subject) string {
	if !d.Ratio {
		return ""
	}
	return divide(r.of(Usernet, mtu, d.Measure), r.of(to, mtu, d.Measure)).show(hundredths)
}

// number shows three significant digits, and all digits of what is larger.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'f', 3, 64)
	}
}

// align writes rows in columns: the first two to the left, figures to the right. Columns are counted in
// runes, for µ and – are longer in bytes.
func align(b *strings.Builder, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// errors lists what could not be measured; measures of one failure share a line.
func (r *Result) errors(b *strings.Builder) {
	head := "\nnot measured:\n"
	seen := map[string]bool{}
	for i := range r.Figures {
		f := &r.Figures[i]
		if f.Error == "" {
			continue
		}
		// Errors of several connections come one a line, most of them alike.
		line := fmt.Sprintf("  %s: %s\n", f.name(), strings.Join(slices.Compact(strings.Split(f.Error, "\n")), "; "))
		if !seen[line] {
			b.WriteString(head + line)
			head, seen[line] = "", true
		}
	}
}

func (f *Figure) name() string {
	name := string(f.Subject)
	if f.MTU != 0 {
		name += fmt.Sprintf(" at MTU %d", f.MTU)
	}
	return name + ", " + definition(f.Measure).Title
}

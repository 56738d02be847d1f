package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Sizes of the figure in pixels. Three panels fit the width of a page of documentation; the text is that of
// the page around it.
const (
	panelColumns = 3
	panelWidth   = 320
	panelHead    = 40 // title and unit
	panelGap     = 24
	barHeight    = 15
	barPitch     = 20
	labelWidth   = 118 // "slirp4netns 65520"
	valueWidth   = 54
	margin       = 16
	footHeight   = 34
)

// colours tell subjects apart also without colour vision: they differ in lightness.
var colours = map[Subject]string{
	Kernel: "#c8ccd0", Relay: "#8f979f", Usernet: "#0b66c3", Slirp: "#e2a33b", Pasta: "#a8502a",
	GvisorTap: "#3f7d5a", Podman: "#6d3f7d",
}

// A bar is one subject at one MTU in a panel.
type bar struct {
	label  string
	value  float64
	colour string
}

// SVG draws the medians: a panel for each measure, a bar for each subject and MTU. It stands alone: no
// script, no font, no style sheet.
func (r *Result) SVG(w io.Writer) error {
	type panel struct {
		d    Definition
		bars []bar
	}
	var panels []panel
	most := 0
	for _, d := range slices.Concat(Definitions, NetworkDefinitions) {
		if bars := r.bars(d); d.Figure && len(bars) > 0 {
			panels = append(panels, panel{d, bars})
			most = max(most, len(bars))
		}
	}
	height := panelHead + most*barPitch + panelGap
	rows := (len(panels) + panelColumns - 1) / panelColumns
	total := [2]int{2*margin + panelColumns*panelWidth + (panelColumns-1)*panelGap, 2*margin + rows*height + footHeight}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n",
		total[0], total[1])
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", total[0], total[1])
	for i, p := range panels {
		x := margin + i%panelColumns*(panelWidth+panelGap)
		y := margin + i/panelColumns*height
		drawPanel(&b, x, y, p.d, p.bars)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#555555">%s</text>`+"\n", margin, total[1]-margin, escape(fmt.Sprintf(
		"%s, %d CPUs, kernel %s. Medians of %d rounds. The number after a name is the MTU.",
		r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Rounds)))
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// bars are the values of d that exist: what has no MTU first, then by subject and MTU.
func (r *Result) bars(d Definition) (all []bar) {
	for _, s := range Subjects {
		for _, mtu := range slices.Concat([]int{0}, r.MTUs) {
			f := r.find(s, mtu, d.Measure)
			if f == nil || len(f.Values) == 0 {
				continue
			}
			label := string(s)
			if mtu != 0 {
				label = fmt.Sprintf("%s %d", s, mtu)
			}
			all = append(all, bar{label, r.Value(s, mtu, d.Measure), colours[s]})
		}
	}
	return all
}

func drawPanel(b *strings.Builder, x, y int, d Definition, bars []bar) {
	better := "lower is better"
	if d.Better == Higher {
		better = "higher is better"
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", x, y+12, escape(d.Title))
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="#555555" font-size="11">%s, %s</text>`+"\n", x, y+28, escape(d.Unit), better)
	largest := 0.0
	for _, v := range bars {
		largest = max(largest, v.value)
	}
	for i, v := range bars {
		top := y + panelHead + i*barPitch
		length := 0.0
		if largest > 0 {
			length = v.value / largest * (panelWidth - labelWidth - valueWidth)
		}
		length = math.Max(length, 1) // a bar of nothing is still seen
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", x+labelWidth-6, top+12, escape(v.label))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x+labelWidth, top, length, barHeight, v.colour)
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`+"\n", float64(x+labelWidth)+length+5, top+12, number(v.value))
	}
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace

package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/usernet/usernet/portfwd"
)

// table is lines of columns, the first line the head.
type table [][]string

// String aligns the columns.
func (t table) String() string {
	const gap = 2
	width := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, line := range t {
		pad := 0 // before the next cell that is not empty, so that no line ends in blanks
		for i, cell := range line {
			if cell != "" {
				b.WriteString(strings.Repeat(" ", pad) + cell)
				pad = 0
			}
			pad += width[i] - utf8.RuneCountInString(cell) + gap
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// hostSide is the address and port of the host that a bound port is reached at.
func hostSide(s portfwd.Spec) string {
	switch {
	case !s.HostIP.IsValid():
		return fmt.Sprintf("*:%d", s.HostPort)
	case s.HostIP.Is6():
		return fmt.Sprintf("[%s]:%d", s.HostIP, s.HostPort)
	}
	return fmt.Sprintf("%s:%d", s.HostIP, s.HostPort)
}

// showPorts lists ports as docker ps does, runs of consecutive ones as ranges.
func showPorts(ports []portfwd.Spec) string {
	var shown []string
	for i := 0; i < len(ports); {
		first, n := ports[i], 1
		for i+n < len(ports) && follows(first, ports[i+n], uint16(n)) {
			n++
		}
		i += n
		if n == 1 {
			shown = append(shown, fmt.Sprintf("%s->%d/%s", hostSide(first), first.Port, first.Proto))
			continue
		}
		shown = append(shown, fmt.Sprintf("%s-%d->%d-%d/%s", hostSide(first), int(first.HostPort)+n-1, first.Port, int(first.Port)+n-1, first.Proto))
	}
	return strings.Join(shown, ", ")
}

// follows says that s is first, n ports on.
func follows(first, s portfwd.Spec, n uint16) bool {
	return s.Proto == first.Proto && s.HostIP == first.HostIP && s.HostPort == first.HostPort+n && s.Port == first.Port+n
}

// showDrops lists counters, the largest first.
func showDrops(drops map[string]uint64) string {
	if len(drops) == 0 {
		return "0"
	}
	names := slices.SortedFunc(maps.Keys(drops), func(a, b string) int {
		if drops[a] != drops[b] {
			if drops[a] > drops[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%s=%d", n, drops[n])
	}
	return strings.Join(names, " ")
}

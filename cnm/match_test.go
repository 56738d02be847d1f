package cnm

import (
	"slices"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
)

// TestMatchContainer: an id goes before a name and a name before the beginning of an id.
func TestMatchContainer(t *testing.T) {
	type box struct{ id, name string }
	all := []box{{"abc1", "web"}, {"abd2", "abc1"}, {"ffee", "ab"}, {"fe00", "a/b"}, {"ff11", "f/f"}}
	for _, row := range []struct {
		ref, want string // the id
		kind      fault.Kind
		text      string
	}{
		{ref: "abc1", want: "abc1"},
		{ref: "/abc1", want: "abd2"}, // a slash makes it a name
		{ref: "web", want: "abc1"},
		{ref: "/web", want: "abc1"},
		{ref: "ab", want: "ffee"},
		{ref: "abd", want: "abd2"},
		{ref: "fe", want: "fe00"},
		{ref: "ff", kind: fault.Invalid, text: "multiple IDs found with provided prefix: ff"},
		{ref: "abc11", kind: fault.NotFound, text: "No such container: abc11"},
		{ref: "/abd", kind: fault.NotFound, text: "No such container: /abd"},
		{ref: "//web", kind: fault.NotFound, text: "No such container: //web"},
		{ref: "", kind: fault.NotFound, text: "No such container: "},
		{ref: "/", kind: fault.NotFound, text: "No such container: /"},
	} {
		for range 2 { // in any order
			got, err := MatchContainer(slices.Values(all), row.ref, func(b box) (string, string) { return b.id, b.name })
			if row.text != "" {
				wantErr(t, row.ref, err, row.kind, row.text)
			} else if err != nil || got.id != row.want {
				t.Errorf("%q is %v, %v; want %s", row.ref, got, err, row.want)
			}
			slices.Reverse(all)
		}
	}
}

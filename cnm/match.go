package cnm

import (
	"iter"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// MatchContainer finds the container that ref means among all, as Docker's daemon does: the one with that id, else
// the one with that name, with or without the slash that names are shown with, else the only one whose id begins
// so. all is gone through once.
func MatchContainer[T any](all iter.Seq[T], ref string, of func(T) (id, name string)) (T, error) {
	var byName, byPrefix T
	var named bool
	prefixed := 0
	for c := range all {
		id, name := of(c)
		switch {
		case ref == "" || ref == "/":
		case id == ref:
			return c, nil
		case name == strings.TrimPrefix(ref, "/"):
			byName, named = c, true
		case strings.HasPrefix(id, ref):
			byPrefix = c
			prefixed++
		}
	}
	var none T
	switch {
	case named:
		return byName, nil
	case prefixed == 1:
		return byPrefix, nil
	case prefixed > 1:
		return none, fault.New(fault.Invalid, "multiple IDs found with provided prefix: %s", ref)
	}
	return none, NoSuchContainer(ref)
}

// NoSuchContainer is the error for a container that is not there, in Docker's words.
func NoSuchContainer(ref string) error {
	return fault.New(fault.NotFound, "No such container: %s", ref)
}

package api

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// Filters select what a list shows. Values of one key are alternatives, except labels, which must all be
// there; every key must agree. They come over the wire as {"label":{"a":true}}, and from clients before
// API 1.22 as {"label":["a"]}.
type Filters map[string][]string

// ParseFilters reads either encoding. The values of a key are sorted and without doubles.
func ParseFilters(s string) (Filters, error) {
	if s == "" {
		return nil, nil
	}
	f := Filters{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &sets); err != nil {
		var lists map[string][]string
		if json.Unmarshal([]byte(s), &lists) != nil {
			return nil, fault.New(fault.Invalid, "invalid filter: %w", err)
		}
		for k, vs := range lists {
			f.add(k, vs...)
		}
		return f, nil
	}
	for k, set := range sets {
		f.add(k)
		for v := range set {
			f.add(k, v)
		}
	}
	return f, nil
}

// add adds values; a key without values is no filter, but must be one that is known.
func (f Filters) add(k string, vs ...string) {
	vs = append(f[k], vs...)
	slices.Sort(vs)
	f[k] = slices.Compact(vs)
}

// filtersOf reads a request's filters, of which known are accepted.
func filtersOf(r *http.Request, known ...string) (Filters, error) {
	f, err := ParseFilters(r.URL.Query().Get("filters"))
	if err != nil {
		return nil, err
	}
	for k := range f {
		if !slices.Contains(known, k) {
			return nil, fault.New(fault.Invalid, "invalid filter '%s'", k)
		}
	}
	return f, nil
}

// exact reports whether one of the values is s.
func (f Filters) exact(k, s string) bool {
	return len(f[k]) == 0 || slices.Contains(f[k], s)
}

// prefix reports whether s begins with one of the values.
func (f Filters) prefix(k, s string) bool {
	return len(f[k]) == 0 || slices.ContainsFunc(f[k], func(v string) bool { return strings.HasPrefix(s, v) })
}

// patterns are the values of a key as regular expressions. As in Docker one that is none matches only itself.
// They are compiled once for a list; Go's expressions take time linear in what they read, whatever they say.
type patterns struct {
	texts []string
	exprs []*regexp.Regexp
}

func (f Filters) patterns(k string) patterns {
	p := patterns{texts: f[k]}
	for _, v := range f[k] {
		if re, err := regexp.Compile(v); err == nil {
			p.exprs = append(p.exprs, re)
		}
	}
	return p
}

func (p patterns) match(s string) bool {
	if len(p.texts) == 0 || slices.Contains(p.texts, s) {
		return true
	}
	return slices.ContainsFunc(p.exprs, func(re *regexp.Regexp) bool { return re.MatchString(s) })
}

// labels reports whether all of the values, KEY or KEY=VALUE, are among the labels.
func (f Filters) labels(k string, labels map[string]string) bool {
	for _, want := range f[k] {
		key, value, hasValue := strings.Cut(want, "=")
		got, ok := labels[key]
		if !ok || hasValue && got != value {
			return false
		}
	}
	return true
}

// boolean reads a filter that is either or. ok says whether it is given.
func (f Filters) boolean(k string) (value, ok bool, err error) {
	switch vs := f[k]; {
	case len(vs) == 0:
		return false, false, nil
	case len(vs) > 1:
		return false, false, fault.New(fault.Invalid, "got more than one value for filter key %q", k)
	case vs[0] == "1" || vs[0] == "true":
		return true, true, nil
	case vs[0] == "0" || vs[0] == "false":
		return false, true, nil
	}
	return false, false, fault.New(fault.Invalid, `invalid value for filter '%s', must be "true" (or "1"), or "false" (or "0")`, k)
}

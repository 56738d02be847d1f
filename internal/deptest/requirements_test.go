package deptest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A requirement has an id, and the tests that show it name the id: in the test's name (TestNAT26), in its comment, or
// at the row of a table that is the case.
//
// docs/REQUIREMENTS.md lists which test shows what. TestRequirements fails when the list is not what the tests
// say, and when nothing shows a requirement. Write the list with `make requirements`.

// requirement is one line of requirements_list_test.go.
type requirement struct{ id, what string }

// idPattern finds ids in text: NAT-04, NAT-04 to -07, HC-23 and -24, HC-08/09.
var idPattern = regexp.MustCompile(`\b(NAT|TCP|UDP|HC|DN|LU|FT|RX|FZ|SK)-(\d\d)((?:(?:, | and | to |/)-?\d\d\b)*)`)

// modelPattern finds those of Docker's network model: M5, LC1 to LC7, DU1–DU4, C-cr4.
var modelPattern = regexp.MustCompile(`\b(M|LC|DN|DB|DU|DH|DC|SD|DF|LK|MN|LG|C-(?:ls|cr|rm|co|di|in|pr|run))(\d{1,2})\b(?:(?: to |–)(M|LC|DN|DB|DU|DH|DC|SD|DF|LK|MN|LG)?(\d{1,2})\b)?`)

var nextPattern = regexp.MustCompile(`(, | and | to |/)-?(\d\d)`)

// namePattern finds the id in the name of a test.
var namePattern = regexp.MustCompile(`^Test(NAT|TCP|UDP|HC|DN|LU|FT|RX|FZ|SK)(\d\d)`)

// idsIn returns the ids that a text names.
func idsIn(text string) (ids []string) {
	for _, m := range idPattern.FindAllStringSubmatch(text, -1) {
		last, _ := strconv.Atoi(m[2])
		ids = append(ids, m[1]+"-"+m[2])
		for _, n := range nextPattern.FindAllStringSubmatch(m[3], -1) {
			number, _ := strconv.Atoi(n[2])
			if n[1] != " to " {
				last = number - 1
			}
			for last < number {
				last++
				ids = append(ids, fmt.Sprintf("%s-%02d", m[1], last))
			}
		}
	}
	for _, m := range modelPattern.FindAllStringSubmatch(text, -1) {
		first, _ := strconv.Atoi(m[2])
		last := first
		if m[4] != "" && (m[3] == "" || m[3] == m[1]) {
			last, _ = strconv.Atoi(m[4])
		}
		ids = append(ids, m[1]+m[2])
		for n := first + 1; n <= last; n++ {
			ids = append(ids, m[1]+strconv.Itoa(n))
		}
	}
	return ids
}

// shown is a test that names ids.
type shown struct{ file, test string }

// namedFor reports whether a test's name has the id.
func namedFor(test, id string) bool {
	m := namePattern.FindStringSubmatch(test)
	return m != nil && m[1]+"-"+m[2] == id
}

// showing returns the tests of a file by the ids that they show. What stands between tests, tables and fixtures,
// belongs to the test that follows.
func showing(t *testing.T, path string, text []byte) map[string]shown {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]shown{}
	from := 0
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || !regexp.MustCompile(`^(Test|Fuzz|Benchmark)`).MatchString(fn.Name.Name) {
			continue
		}
		to := set.Position(fn.End()).Offset
		ids := idsIn(string(text[from:to]))
		if m := namePattern.FindStringSubmatch(fn.Name.Name); m != nil {
			ids = append(ids, m[1]+"-"+m[2])
		}
		for _, id := range ids {
			// One that is named for it says most.
			if old, ok := tests[id]; !ok || !namedFor(old.test, id) && namedFor(fn.Name.Name, id) {
				tests[id] = shown{path, fn.Name.Name}
			}
		}
		from = to
	}
	return tests
}

// evidence returns, for each id, the tests of the module that show it, at most one of each file.
func evidence(t *testing.T) map[string][]shown {
	t.Helper()
	all := map[string][]shown{}
	for _, f := range sources(t) {
		if !f.isTest() || strings.HasPrefix(f.path, "internal/deptest/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", "..", f.path))
		if err != nil {
			t.Fatal(err)
		}
		for id, s := range showing(t, f.path, text) {
			all[id] = append(all[id], s)
		}
	}
	scripts, err := filepath.Glob("../../rootless-tests/testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".txtar")
		ids := idsIn(string(text))
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			all[id] = append(all[id], shown{"rootless-tests/testdata/script/" + filepath.Base(path), "TestScript/" + name})
		}
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b shown) int { return strings.Compare(a.file, b.file) })
	}
	return all
}

// The list is written between these lines of the document.
const (
	listBegin = "<!-- list: written by make requirements -->\n"
	listEnd   = "<!-- end of list -->\n"
)

// place is the folder of a test.
func place(file string) string {
	folder, _, _ := strings.Cut(filepath.Dir(file), "/testdata")
	return folder
}

// list is the part of the document that is made from the tests.
func list(all map[string][]shown) []byte {
	var b bytes.Buffer
	b.WriteString("| id | what | shown by |\n|---|---|---|\n")
	for _, r := range slices.Concat(requirements, networkRequirements) {
		var tests []string
		for _, s := range all[r.id] {
			tests = append(tests, fmt.Sprintf("[`%s`](../%s) %s", s.test, s.file, place(s.file)))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.id, r.what, strings.Join(tests, "<br>"))
	}
	return b.Bytes()
}

func TestRequirements(t *testing.T) {
	all := evidence(t)
	for _, r := range slices.Concat(requirements, networkRequirements) {
		if len(all[r.id]) == 0 {
			t.Errorf("no test shows %s: %s", r.id, r.what)
		}
	}
	const path = "../../docs/REQUIREMENTS.md"
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := bytes.Index(old, []byte(listBegin)), bytes.Index(old, []byte(listEnd))
	if begin < 0 || end < begin {
		t.Fatalf("%s has no lines %q and %q", path, listBegin, listEnd)
	}
	want := slices.Concat(old[:begin], []byte(listBegin), list(all), old[end:])
	if bytes.Equal(old, want) {
		return
	}
	if os.Getenv("UPDATE_REQUIREMENTS") == "" {
		t.Fatal("docs/REQUIREMENTS.md does not list what the tests say: run `make requirements`")
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestIDs(t *testing.T) {
	for text, want := range map[string]string{
		"NAT-01":                  "NAT-01",
		"NAT-04 to -07, REQ-5":    "NAT-04 NAT-05 NAT-06 NAT-07",
		"(HC-23, HC-24)":          "HC-23 HC-24",
		"HC-08/09 and DN-15, -16": "HC-08 HC-09 DN-15 DN-16",
		"LU-02 and LU-03":         "LU-02 LU-03",
		"RFC-01, XNAT-01, NAT-1":  "",
		"DU1 to DU3, M7; LK1–LK2": "DU1 DU2 DU3 M7 LK1 LK2",
		"LC1 to 3 and C-cr4":      "LC1 LC2 LC3 C-cr4",
		"DN-01 is not DN1":        "DN-01 DN1",
	} {
		if got := strings.Join(idsIn(text), " "); got != want {
			t.Errorf("%q names %q, want %q", text, got, want)
		}
	}
}

func TestShowing(t *testing.T) {
	got := showing(t, "a_test.go", []byte(`package a
// rows of HC-01
var rows = 1
func TestRunt(t *testing.T) { _ = "HC-29" }
// TestNAT26 is refused.
func TestNAT26(t *testing.T) {}
func helper() { _ = "DN-01" }
`))
	want := map[string]shown{"HC-01": {"a_test.go", "TestRunt"}, "HC-29": {"a_test.go", "TestRunt"}, "NAT-26": {"a_test.go", "TestNAT26"}}
	if len(got) != len(want) {
		t.Errorf("found %v, want %v", got, want)
	}
	for id, s := range want {
		if got[id] != s {
			t.Errorf("%s is shown by %v, want %v", id, got[id], s)
		}
	}
}

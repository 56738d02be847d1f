package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// maxLines is how long a file may be. Nobody reads more in one sitting.
const maxLines = 700

// badNames are packages that say nothing of what is in them, and so collect everything.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "shared", "types", "lib"}

// unixPackages may use golang.org/x/sys/unix in any file, internal/sys aside: they exist only on Linux and
// are about its sockets and descriptors. Others use it in files named _linux.go, and in tests.
var unixPackages = map[string]string{
	"internal/sys":         "is where system calls are",
	"internal/confine":     "takes the process's rights away call by call",
	"internal/control":     "names address families of netlink and errors of sockets",
	"internal/datapath":    "receives descriptors over a socket",
	"stack/nat":            "its flows are host sockets: it names their options and errors",
	"rootless-tests/...":   "tests the real kernel",
	"internal/testrig/...": "builds namespaces for the tests of the real kernel",
}

// sourceFile is one Go file of the module.
type sourceFile struct {
	path  string // from the module's root, with slashes
	lines int
	ast   *ast.File
}

func (f *sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f *sourceFile) imports(path string) bool {
	return slices.ContainsFunc(f.ast.Imports, func(s *ast.ImportSpec) bool {
		p, _ := strconv.Unquote(s.Path.Value)
		return p == path
	})
}

// parse makes a sourceFile of text.
func parse(t *testing.T, path string, text []byte) *sourceFile {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return &sourceFile{path: path, lines: strings.Count(string(text), "\n"), ast: f}
}

// sources reads every Go file of the module, those for other platforms too.
func sources(t *testing.T) (all []*sourceFile) {
	t.Helper()
	root := os.DirFS(filepath.Join("..", ".."))
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if path != "." && (name[0] == '.' || name[0] == '_' || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		all = append(all, parse(t, path, text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fileRules return what is wrong with a file, or nothing.
var fileRules = []func(f *sourceFile) string{tooLong, badName, unixOutside, sleeps}

func tooLong(f *sourceFile) string {
	if f.lines > maxLines {
		return "has " + strconv.Itoa(f.lines) + " lines, more than " + strconv.Itoa(maxLines) + ": split it by what its parts are about"
	}
	return ""
}

func badName(f *sourceFile) string {
	dir := filepath.Base(filepath.Dir(f.path))
	if slices.Contains(badNames, f.ast.Name.Name) || slices.Contains(badNames, dir) {
		return "is in a package named for nothing: name it for what it holds"
	}
	return ""
}

func unixOutside(f *sourceFile) string {
	if f.isTest() || strings.HasSuffix(f.path, "_linux.go") || !f.imports("golang.org/x/sys/unix") {
		return ""
	}
	for p := range unixPackages {
		if match(filepath.ToSlash(filepath.Dir(f.path)), []string{p}) {
			return ""
		}
	}
	return "imports golang.org/x/sys/unix: system calls live in internal/sys and in files named _linux.go"
}

func sleeps(f *sourceFile) string {
	if !f.isTest() {
		return ""
	}
	found := false
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
				found = true
			}
		}
		return !found
	})
	if found {
		return "calls time.Sleep: wait for the thing itself, pass time in, or use testing/synctest"
	}
	return ""
}

func TestFiles(t *testing.T) {
	for _, f := range sources(t) {
		for _, r := range fileRules {
			if bad := r(f); bad != "" {
				t.Errorf("%s %s", f.path, bad)
			}
		}
	}
}

// Each rule finds what it is for and nothing else.
func TestFileRulesCanFail(t *testing.T) {
	long := strings.Repeat("\n", maxLines)
	unix := "package p\nimport \"golang.org/x/sys/unix\"\n"
	sleep := "package p\nfunc f() { time.Sleep(1) }\n"
	for _, row := range []struct {
		path, text string
		want       int
	}{
		{"stack/a.go", "package stack", 0},
		{"stack/a.go", "package stack" + long + "\n", 1},
		{"stack/a.go", "package stack" + long, 0},
		{"internal/util/a.go", "package strings", 1},
		{"internal/a/a.go", "package helpers", 1},
		{"stack/bridge/a.go", unix, 1},
		{"stack/bridge/a_linux.go", unix, 0},
		{"stack/bridge/a_test.go", unix, 0},
		{"internal/sys/a.go", unix, 0},
		{"stack/nat/a.go", unix, 0},
		{"stack/a_test.go", sleep, 1},
		{"stack/a.go", sleep, 0},
	} {
		f := parse(t, row.path, []byte(row.text))
		n := 0
		for _, r := range fileRules {
			if r(f) != "" {
				n++
			}
		}
		if n != row.want {
			t.Errorf("%s breaks %d rules, want %d:\n%.60s", row.path, n, row.want, row.text)
		}
	}
}

package deptest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pkg is one package of the module. Paths of the module's own packages are relative to it, those of the standard
// library begin with std/, for it has an internal and a cmd of its own.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string // direct
	Deps                               []string // what Imports bring in, however deep
}

// goList runs the go command in the module's root.
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("go list %v: %v", args, err)
	}
	return out
}

// load returns every package of the module.
func load(t *testing.T) (all []pkg) {
	t.Helper()
	module := strings.TrimSpace(string(goList(t, "-m")))
	out := goList(t, "-e", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, list := range [][]string{p.Imports, p.TestImports, p.XTestImports, p.Deps} {
			for i := range list {
				list[i] = name(module, list[i])
			}
		}
		p.ImportPath = name(module, p.ImportPath)
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list found no packages")
	}
	return all
}

// name gives a package the path that rules speak of.
func name(module, path string) string {
	if own, ok := strings.CutPrefix(path, module+"/"); ok {
		return own
	}
	if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
		return path
	}
	return "std/" + path
}

// match reports whether a package is among the patterns: a path, a path with /... for it and all below
// it, or thirdParty.
func match(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == thirdParty {
			first, _, _ := strings.Cut(path, "/")
			return strings.Contains(first, ".")
		}
		if root, ok := strings.CutSuffix(p, "/..."); ok {
			return path == root || strings.HasPrefix(path, root+"/")
		}
		return path == p
	})
}

// thirdParty stands for every package that is neither the module's nor the standard library's.
const thirdParty = "<third party>"

// check returns the imports of p that the rule forbids.
func (r rule) check(p pkg) (bad []string) {
	if !match(p.ImportPath, r.who) || match(p.ImportPath, r.except) {
		return nil
	}
	imports := p.Imports
	if r.deep {
		imports = p.Deps
	}
	if r.tests {
		imports = slices.Concat(imports, p.TestImports, p.XTestImports)
	}
	for _, i := range imports {
		if match(i, r.never) && !match(i, r.unless) && !slices.Contains(bad, i) {
			bad = append(bad, i)
		}
	}
	return bad
}

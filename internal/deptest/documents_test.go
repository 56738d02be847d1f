package deptest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readmeLines is how long the README may be: it is read standing.
const readmeLines = 150

func document(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every package has its place in docs/ARCHITECTURE.md, under its full name.
func TestArchitectureNamesPackages(t *testing.T) {
	text := document(t, "docs/ARCHITECTURE.md")
	for _, p := range load(t) {
		// The programs of rootless-tests and tools are told of by what they are part of.
		if strings.HasPrefix(p.ImportPath, "rootless-tests/") || strings.HasPrefix(p.ImportPath, "tools/") {
			continue
		}
		if !strings.Contains(text, "`"+p.ImportPath+"`") {
			t.Errorf("docs/ARCHITECTURE.md does not mention `%s`", p.ImportPath)
		}
	}
}

// What the documents point to exists.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	root := filepath.Join("..", "..")
	documents, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(more) == 0 {
		t.Fatal("no documents found")
	}
	for _, path := range slices.Concat(documents, more) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(path), m[1], err)
			}
		}
	}
}

func TestReadmeLength(t *testing.T) {
	if n := strings.Count(document(t, "README.md"), "\n"); n > readmeLines {
		t.Errorf("README.md has %d lines, more than %d", n, readmeLines)
	}
}

// commands returns the command lines of a document's code blocks that begin with program, without comments and prompts.
func commands(text, program string) (lines []string) {
	code := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			code = !code
			continue
		}
		line = strings.TrimPrefix(line, "$ ")
		if code && strings.HasPrefix(line, program+" ") {
			line, _, _ = strings.Cut(line, " #")
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// Every target of make that a document names exists.
func TestMakeTargets(t *testing.T) {
	makefile := document(t, "Makefile")
	for _, path := range []string{"README.md", "CONTRIBUTING.md", "docs/PERFORMANCE.md", "docs/REQUIREMENTS.md"} {
		for _, line := range commands(document(t, path), "make") {
			target := strings.Fields(line)[1]
			if !strings.Contains(makefile, "\n"+target+":") {
				t.Errorf("%s says %q: there is no such target", path, line)
			}
		}
	}
}

// Every command and every flag of usernet that a document shows exists.
func TestCommandLines(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "usernet")
	build := exec.Command("go", "build", "-o", exe, "./cmd/usernet")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	flag := regexp.MustCompile(`^--?[a-z][a-z0-9-]*`)
	found := 0
	for _, path := range []string{"README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/DATAPATH.md", "docs/NETWORKS.md", "docs/SECURITY.md", "docs/PERFORMANCE.md"} {
		for _, line := range commands(document(t, path), "usernet") {
			found++
			own, _, _ := strings.Cut(line, " -- ") // the rest is CMD's
			words := strings.Fields(own)[1:]
			help := helpOf(t, exe, words)
			for _, w := range words {
				if f := flag.FindString(w); f != "" && !regexp.MustCompile(`(?m)(^|\s)`+regexp.QuoteMeta(f)+`(,|\s|=|$)`).MatchString(help) {
					t.Errorf("%q: there is no flag %s", line, f)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no document shows a command line of usernet")
	}
}

// helpOf returns the help of the command that the first words name, run or port add.
func helpOf(t *testing.T, exe string, words []string) string {
	t.Helper()
	help := ""
	for n := 1; n <= len(words) && !strings.HasPrefix(words[n-1], "-"); n++ {
		out, err := exec.Command(exe, append(slices.Clone(words[:n]), "--help")...).CombinedOutput()
		help = string(out)
		if name := strings.Join(words[:n], " "); err != nil || !strings.Contains(help, "Usage:\n  usernet "+name) {
			t.Errorf("usernet %s: there is no such command: %v", name, err)
			return ""
		}
		if !strings.Contains(help, "Available Commands:") {
			break // what follows are arguments
		}
	}
	return help
}

// The figures are those of a run, and nobody's memory of one.
func TestPerformanceIsMeasured(t *testing.T) {
	bench := exec.Command("go", "run", "./rootless-tests/bench", "--from", "docs/perf/bench.json")
	bench.Dir = filepath.Join("..", "..")
	bench.Env = append(os.Environ(), "CGO_ENABLED=0")
	table, err := bench.Output()
	if err != nil {
		t.Fatalf("bench: %v", err)
	}
	if !strings.Contains(document(t, "docs/PERFORMANCE.md"), string(table)) {
		t.Error("docs/PERFORMANCE.md does not have the table of docs/perf/bench.json: run `make bench-docs` after `make bench`")
	}
}

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/bench/report"
)

func TestRootlesskitVersion(t *testing.T) {
	for _, row := range []struct {
		said, version string
		major         int
	}{
		{"rootlesskit version 3.0.1\n", "3.0.1", 3},
		{"rootlesskit version 1.1.0", "1.1.0", 1},
		{"rootlesskit version v10.2\nand more", "v10.2", 10},
		{"rootlesskit 3.0.1", "", 0},
		{"rootlesskit version next", "", 0},
		{"", "", 0},
	} {
		version, major, err := rootlesskitVersion(row.said)
		if version != row.version || major != row.major || (err == nil) != (row.version != "") {
			t.Errorf("%q: %q, %d, %v", row.said, version, major, err)
		}
	}
}

// gvisor-tap-vsock is left out, and that is said, unless rootlesskit is there in a version that has it.
func TestDropMissing(t *testing.T) {
	for _, row := range []struct {
		says string // the program; empty: there is none
		note string // empty: it is measured
	}{
		{"", "rootlesskit is not installed"},
		{"exit 1", "does not run"},
		{"echo rootlesskit version 2.0.2", "2.0.2 is installed"},
		{"echo something else", "not known"},
		{"echo rootlesskit version 3.0.1", ""},
	} {
		dir := t.TempDir()
		if row.says != "" {
			if err := os.WriteFile(filepath.Join(dir, "rootlesskit"), []byte("#!/bin/sh\n"+row.says+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		m := &meter{result: &report.Result{}}
		m.subjects = []report.Subject{report.Usernet, report.GvisorTap}
		m.dropMissing()
		notes := strings.Join(m.result.Notes, "; ")
		if stays := slices.Contains(m.subjects, report.GvisorTap); stays != (row.note == "") || (notes == "") != stays || !strings.Contains(notes, row.note) {
			t.Errorf("%q: subjects %v, note %q", row.says, m.subjects, notes)
		}
	}
}

package pasta

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogFile: the file keeps the newest records, whole, and never grows beyond its size.
func TestLogFile(t *testing.T) {
	const size = 8192
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	last := ""
	for i := range 3000 {
		last = fmt.Sprintf("record %d\n", i)
		if n, err := l.Write([]byte(last)); n != len(last) || err != nil {
			t.Fatal(n, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(b) > size || !strings.HasSuffix(string(b), last) || len(lines) < 200 {
		t.Errorf("%d bytes, %d lines, ends with %q", len(b), len(lines), lines[len(lines)-1])
	}
	first := 3000 - len(lines)
	for i, line := range lines {
		if want := fmt.Sprintf("record %d", first+i); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
	huge := strings.Repeat("x", 3*size)
	if n, err := l.Write([]byte(huge)); n != len(huge) || err != nil {
		t.Error(n, err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() > size {
		t.Error(st.Size(), err)
	}
	if _, err := openLog(filepath.Join(path, "x"), size); err == nil {
		t.Error("no error for a path that cannot be")
	}
}

func TestRunAs(t *testing.T) {
	for s, ok := range map[string]bool{
		"": true, "1000": true, "1000:1000": true, "nobody": true, "nobody:1": true, "root": false,
		"no-such-user-here": false, "1:no-such-group-here": false,
	} {
		if err := checkRunAs(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

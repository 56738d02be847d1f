package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sound returns the bytes of a file with many or few records, and what it says.
func sound(t testing.TB, records int) ([]byte, state) {
	t.Helper()
	p := newPlace(t)
	s := p.open(t)
	// Few transactions, but more than one, so that there are unused pages.
	for i := range records/97 + 1 {
		put(t, s, "other", fmt.Sprint(i), "leg")
	}
	several(t, s, records, func(i int) (key, value string) { return fmt.Sprintf("%064d", i), strings.Repeat("x", i%300) })
	put(t, s, "other", "last", "leg")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return b, st
}

func same(a, b state) bool { return a.header == b.header && a.digest == b.digest }

// A file that is cut anywhere is either found damaged or, where only unused pages are gone, says what it said.
func TestFT08CutAtEveryLength(t *testing.T) {
	b, whole := sound(t, 3)
	for n := range b {
		if got, err := parse(b[:n]); err == nil && !same(got, whole) {
			t.Fatalf("%d of %d bytes: another state without an error", n, len(b))
		}
	}
}

// A bit that flips anywhere is found, or changes nothing, or leaves the meta page of the transaction before: then its state
// is what is said, and it says that it is older.
func TestFT08FlippedBits(t *testing.T) {
	for _, row := range []struct{ records, step int }{{3, 1}, {400, 61}} { // the second has branch pages
		b, whole := sound(t, row.records)
		damaged := 0
		for i := 0; i < len(b); i += row.step {
			bit := byte(1) << rand.IntN(8)
			b[i] ^= bit
			got, err := parse(b)
			b[i] ^= bit
			switch {
			case err != nil:
				damaged++
			case !same(got, whole) && got.Generation >= whole.Generation:
				t.Fatalf("bit %#x of byte %d: another state without an error", bit, i)
			}
		}
		if damaged < 200 {
			t.Errorf("only %d flips did damage: what do they test?", damaged)
		}
	}
}

// A meta page with a valid checksum that says what we never write: bbolt would believe it.
func TestFT08ForeignMetaPages(t *testing.T) {
	whole, _ := sound(t, 3)
	m0, _ := parseMeta(whole, 0)
	m1, _ := parseMeta(whole, 1)
	newest := 0
	if m1.txid > m0.txid {
		newest = 1
	}
	for name, row := range map[string]struct {
		page, field int
		value       byte
	}{
		"a list of free pages":      {newest, 32, 2},
		"the root outside":          {newest, 17, 0xff},
		"the root in a meta page":   {newest, 16, 1},
		"more pages than there are": {newest, 41, 1},
		"page size":                 {newest, 9, 0x20},
		"page size of the other":    {1 - newest, 9, 0x20},
	} {
		b := bytes.Clone(whole)
		b[row.page*pageSize+pageHeader+row.field] = row.value
		seal(b)
		if got, err := parse(b); err == nil {
			t.Errorf("%s: parsed, generation %d", name, got.Generation)
		}
	}
}

// damage is done to a closed state file.
func damage(t testing.TB, path string, f func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

var damages = map[string]func(b []byte) []byte{
	"empty":        func(b []byte) []byte { return nil },
	"one byte":     func(b []byte) []byte { return b[:1] },
	"one page":     func(b []byte) []byte { return b[:pageSize] },
	"two pages":    func(b []byte) []byte { return b[:2*pageSize] },
	"odd length":   func(b []byte) []byte { return b[:2*pageSize+100] },
	"zeros":        func(b []byte) []byte { return make([]byte, len(b)) },
	"other":        func(b []byte) []byte { return []byte("{\"networks\":[]}") },
	"metas":        func(b []byte) []byte { clear(b[:2*pageSize]); return b },
	"record":       func(b []byte) []byte { return bytes.Replace(b, []byte(`"web"`), []byte(`"wet"`), -1) },
	"without tree": func(b []byte) []byte { clear(b[2*pageSize:]); return b },
}

// FT-08: a damaged file costs nothing as long as its copy is there, and is kept.
func TestFT08CopyIsUsed(t *testing.T) {
	for name, how := range damages {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			s := p.open(t)
			put(t, s, Networks, "a", "web")
			put(t, s, Networks, "b", "db")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, p.path, how)
			s = p.open(t)
			want(t, s, Networks, map[string]string{"a": "web", "b": "db"})
			if bad := p.files(t, ".bad-*"); len(bad) != 1 || !strings.Contains(p.log.String(), "its copy is used") {
				t.Errorf("kept aside: %v, log: %s", bad, &p.log)
			}
			put(t, s, Networks, "c", "new")
			s = p.reopen(t, s)
			want(t, s, Networks, map[string]string{"a": "web", "b": "db", "c": "new"})
		})
	}
}

// The newest meta page alone is lost: bbolt would take the older one and forget what was acknowledged.
func TestFT08NewestMetaPage(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	put(t, s, Networks, "b", "acknowledged")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, p.path, func(b []byte) []byte {
		m0, _ := parseMeta(b, 0)
		m1, _ := parseMeta(b, 1)
		newest := 0
		if m1.txid > m0.txid {
			newest = pageSize
		}
		b[newest+pageHeader+50] ^= 1
		return b
	})
	s = p.open(t)
	want(t, s, Networks, map[string]string{"a": "web", "b": "acknowledged"})
}

// A damaged copy is replaced, and what is damaged beyond that is a beginning without networks, never a refusal.
func TestFT08DamagedCopyAndBoth(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, s.copyPath(), damages["odd length"])
	s = p.open(t)
	want(t, s, Networks, map[string]string{"a": "web"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err := readState(s.copyPath()); err != nil || !same(st, s.state) {
		t.Errorf("the copy was not replaced: %v", err)
	}

	damage(t, p.path, damages["record"])
	damage(t, s.copyPath(), damages["zeros"])
	s = p.open(t)
	want(t, s, Networks, map[string]string{})
	put(t, s, Networks, "b", "new")
	if bad := p.files(t, "*.bad-*"); len(bad) != 2 || !strings.Contains(p.log.String(), "beginning without networks") {
		t.Errorf("kept aside: %v, log: %s", bad, &p.log)
	}
	p.reopen(t, s)
}

// What cannot be read is not said to be damaged.
func TestFT08Unreadable(t *testing.T) {
	p := newPlace(t)
	if err := os.MkdirAll(filepath.Join(p.path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.path, nil); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("error %v", err)
	}
	if bad := p.files(t, ".bad-*"); len(bad) > 0 {
		t.Errorf("renamed: %v", bad)
	}
}

// A file that is shortened while it is mapped is SIGBUS for whoever touches it.
func TestFT08CutWhileOpen(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	for _, size := range []int64{0, 1, pageSize, 3 * pageSize} {
		if err := os.Truncate(p.path, size); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("after ", size)
		if err := s.Put(Networks, "b", record{Name: name}); err != nil {
			t.Logf("cut to %d: %v", size, err)
			want(t, s, Networks, names(t, s, Networks))
		}
		put(t, s, Networks, "b", name)
		s = p.reopen(t, s)
		want(t, s, Networks, map[string]string{"a": "web", "b": name})
	}
}

// A crash at any point of a rewrite or of copying leaves files that mean nothing.
func TestFT08Leftovers(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, leftover := range []string{p.path + ".new", s.copyPath() + ".new"} {
		if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(p.path, p.path+".bad-1"); err != nil { // a crash between setting aside and writing anew
		t.Fatal(err)
	}
	s = p.open(t)
	want(t, s, Networks, map[string]string{"a": "web"})
	if left := p.files(t, "*.new"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// steps for the tests of migration: schema 2 calls a network's name title, schema 3 adds a bucket.
var steps = []migration{
	func(im image) error {
		for key, raw := range im[Networks] {
			im.set(Networks, key, bytes.Replace(raw, []byte(`"Name"`), []byte(`"Title"`), 1))
		}
		return nil
	},
	func(im image) error { im.set("added", "k", []byte(`{"Name":"v"}`)); return nil },
}

// FT-07: an older file is migrated and kept, a newer one refused and left alone.
func TestFT07Schemas(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to migrate
		if s, err = open(p.path, nil, steps, lockWait); err != nil {
			t.Fatal(err)
		}
		var r struct{ Title string }
		if ok, err := s.Get(Networks, "a", &r); !ok || err != nil || r.Title != "web" {
			t.Errorf("migrated: %v %v %v", r, ok, err)
		}
		want(t, s, "added", map[string]string{"k": "v"})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(p.path + ".schema-1"); err != nil || !bytes.Equal(kept, old) {
		t.Errorf("the old file was not kept: %v", err)
	}

	before, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(p.path, nil)
	for _, says := range []string{"schema 3", "knows 1", "newer", "move this file and"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("newer file: %v, want %q", err, says)
		}
	}
	if after, err := os.ReadFile(p.path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the newer file was changed: %v", err)
	}
}

// A migration that fails changes nothing.
func TestFT07MigrationFails(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if _, err := open(p.path, nil, []migration{steps[0], func(image) error { return no }}, lockWait); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
	want(t, p.open(t), Networks, map[string]string{"a": "web"})
}

// FT-07: fields and buckets of another version survive, as long as nobody rewrites their record.
func TestFT07UnknownFields(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	if err := s.Put(Networks, "a", map[string]any{"Name": "web", "Later": []int{1}}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "later", "k", "v")
	s = p.reopen(t, s)
	put(t, s, Networks, "b", "db")
	s = p.reopen(t, s)
	var r struct{ Later []int }
	if ok, err := s.Get(Networks, "a", &r); !ok || err != nil || len(r.Later) != 1 {
		t.Errorf("field: %v %v %v", r, ok, err)
	}
	want(t, s, Networks, map[string]string{"a": "web", "b": "db"})
	want(t, s, "later", map[string]string{"k": "v"})
}

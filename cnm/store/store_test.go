package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// record is what the tests keep.
type record struct {
	Name string
	N    int
}

// a place is a state file and what was logged about it.
type place struct {
	path string
	log  bytes.Buffer
}

func newPlace(t testing.TB) *place {
	return &place{path: filepath.Join(t.TempDir(), "state", "networks.db")}
}

// newPlaceInMemory is for tests that would spend their time in fsync.
func newPlaceInMemory(t testing.TB) *place {
	dir, err := os.MkdirTemp("/dev/shm", "usernet-store-")
	if err != nil {
		return newPlace(t)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &place{path: filepath.Join(dir, "state", "networks.db")}
}

func (p *place) open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(p.path, slog.New(slog.NewTextHandler(&p.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// reopen closes a Store and opens its file again.
func (p *place) reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return p.open(t)
}

// files returns the names beside the state file that match.
func (p *place) files(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(p.path + pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// names returns the names of a bucket's records by key, checked to be in order.
func names(t testing.TB, s *Store, bucket string) map[string]string {
	t.Helper()
	all := map[string]string{}
	last := ""
	err := s.Each(bucket, func(key string, raw []byte) error {
		if key <= last && last != "" {
			t.Errorf("%q comes after %q", key, last)
		}
		last = key
		var r record
		err := json.Unmarshal(raw, &r)
		all[key] = r.Name
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func want(t testing.TB, s *Store, bucket string, want map[string]string) {
	t.Helper()
	if got := names(t, s, bucket); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", bucket, got, want)
	}
}

func put(t testing.TB, s *Store, bucket, key, name string) {
	t.Helper()
	if err := s.Put(bucket, key, record{Name: name}); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsSurvive(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "b", "web")
	put(t, s, Networks, "a", "db")
	put(t, s, Networks, "c", "gone")
	put(t, s, Endpoints, "a", "leg")
	put(t, s, Networks, "b", "web2")
	if err := s.Delete(Networks, "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(Networks, "never there"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want(t, s, Networks, map[string]string{"a": "db", "b": "web2"})
		want(t, s, Endpoints, map[string]string{"a": "leg"})
		var r record
		if ok, err := s.Get(Networks, "b", &r); !ok || err != nil || r.Name != "web2" {
			t.Errorf("get: %v %v %v", ok, err, r)
		}
		if ok, err := s.Get(Networks, "c", &r); ok || err != nil {
			t.Errorf("get a deleted record: %v %v", ok, err)
		}
		s = p.reopen(t, s)
	}
	if p.log.Len() > 0 {
		t.Errorf("log of a sound file:\n%s", &p.log)
	}
}

// TestShrinkFile: the file gives back what many records took that have gone, and has the others.
func TestShrinkFile(t *testing.T) {
	p := newPlaceInMemory(t)
	s := p.open(t)
	size := func() int64 {
		info, err := os.Stat(p.path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	many := make(map[string][]byte)
	for i := range 1000 {
		many[strconv.Itoa(i)] = fmt.Appendf(nil, `{"Name":%q}`, strings.Repeat("x", 400))
	}
	if err := s.commit(image{Networks: many}); err != nil {
		t.Fatal(err)
	}
	put(t, s, Networks, "a", "web")
	full := size()
	s.Shrink()
	if n := size(); n != full {
		t.Errorf("with all records %d bytes, %d after", full, n)
	}
	for key := range many {
		many[key] = nil
	}
	if err := s.commit(image{Networks: many}); err != nil {
		t.Fatal(err)
	}
	if n := size(); n < full {
		t.Fatalf("%d bytes of %d without Shrink", n, full)
	}
	s.Shrink()
	if n := size(); n >= compactFrom {
		t.Errorf("%d bytes for one record", n)
	}
	put(t, s, Networks, "b", "db") // into the new file
	for range 2 {
		want(t, s, Networks, map[string]string{"a": "web", "b": "db"})
		s = p.reopen(t, s)
	}
	if p.log.Len() > 0 {
		t.Errorf("log of a sound file:\n%s", &p.log)
	}
}

// TestShrinkFileFails: where the file cannot be written anew it stays in use as it is.
func TestShrinkFileFails(t *testing.T) {
	p := newPlaceInMemory(t)
	s := p.open(t)
	big := map[string][]byte{"big": []byte(`"` + strings.Repeat("x", compactFrom) + `"`)}
	if err := errors.Join(s.commit(image{Networks: big}), s.Delete(Networks, "big")); err != nil {
		t.Fatal(err)
	}
	put(t, s, Networks, "a", "web")
	blocked := filepath.Join(p.path+".new", "x")
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Shrink()
	if !strings.Contains(p.log.String(), "not written anew") {
		t.Errorf("log: %s", &p.log)
	}
	put(t, s, Networks, "b", "db")
	if err := os.RemoveAll(p.path + ".new"); err != nil {
		t.Fatal(err)
	}
	want(t, p.reopen(t, s), Networks, map[string]string{"a": "web", "b": "db"})
}

// TestRefusedRecords: what is refused changes nothing.
func TestRefusedRecords(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "old")
	for _, bad := range []struct {
		bucket, key string
		v           any
	}{
		{"", "k", 1}, {Networks, "", 1}, {headerBucket, headerKey, 1}, {Networks, "k", func() {}}, {Networks, strings.Repeat("k", maxKey+1), 1},
		{Endpoints, "", 1}, {Endpoints, ".", 1}, {Endpoints, "..", 1}, {Endpoints, "a/b", 1}, {Endpoints, "../a", 1}, {Endpoints, "/a", 1},
		{Endpoints, "a" + leaseSuffix, 1}, {Endpoints, strings.Repeat("k", 300), 1}, {Endpoints, "k", func() {}},
	} {
		if err := s.Put(bad.bucket, bad.key, bad.v); err == nil {
			t.Errorf("put %.20q in %q: no error", bad.key, bad.bucket)
		}
	}
	for range 2 {
		want(t, s, Networks, map[string]string{"a": "old"})
		want(t, s, Endpoints, map[string]string{})
		s = p.reopen(t, s)
	}
}

// several makes many changes in one transaction.
func several(t testing.TB, s *Store, n int, name func(i int) (key, value string)) {
	t.Helper()
	staged := make(image)
	for i := range n {
		key, value := name(i)
		raw, err := json.Marshal(record{Name: value})
		if err != nil {
			t.Fatal(err)
		}
		staged.set(Networks, key, raw)
	}
	if n == 0 {
		return
	}
	if err := s.commit(staged); err != nil {
		t.Fatal(err)
	}
}

// Nobody else reads what a user's networks are, whatever the file and its directory were before.
func TestModes(t *testing.T) {
	p := newPlace(t)
	for range 2 {
		s := p.open(t)
		put(t, s, Networks, "a", "web")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, f := range append(p.files(t, "*"), filepath.Dir(p.path)) {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", f, info.Mode())
			}
		}
		for _, err := range []error{os.Chmod(p.path, 0o644), os.Chmod(filepath.Dir(p.path), 0o755)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// LU-05 as far as the state goes: a second daemon is told, soon, and the first goes on.
func TestOneOpener(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	if _, err := open(p.path, nil, migrations, 50*time.Millisecond); !errors.Is(err, ErrInUse) {
		t.Errorf("second opener: %v", err)
	}
	put(t, s, Networks, "a", "web")
	p.reopen(t, s)
}

func TestClosed(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, bucket := range []string{Networks, Endpoints} {
		if err := s.Put(bucket, "b", record{}); !errors.Is(err, ErrClosed) {
			t.Errorf("put in %s: %v", bucket, err)
		}
	}
}

// A list is answered from memory: the files may be gone.
func TestListReadsNoDisk(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	for _, f := range p.files(t, "*") {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	want(t, s, Networks, map[string]string{"a": "web"})
}

// Readers see a change whole or not at all, and never wait for the disk.
func TestParallel(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	const writers, changes = 4, 20
	var wg, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for i := range changes {
				several(t, s, 2, func(k int) (key, value string) { return fmt.Sprint(w + k*writers), fmt.Sprint(i) })
				put(t, s, Endpoints, fmt.Sprint(w), fmt.Sprint(i))
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			got := names(t, s, Networks)
			for w := range writers {
				if a, b := got[fmt.Sprint(w)], got[fmt.Sprint(w+writers)]; a != b {
					t.Errorf("half a change: %s and %s", a, b)
				}
			}
		}
	})
	wg.Wait()
	close(stop)
	readers.Wait()
	s = p.reopen(t, s)
	for key, name := range names(t, s, Endpoints) {
		if name != fmt.Sprint(changes-1) {
			t.Errorf("lease %s is %s", key, name)
		}
	}
	for key, name := range names(t, s, Networks) {
		if name != fmt.Sprint(changes-1) {
			t.Errorf("%s is %s", key, name)
		}
	}
	if s.state.Generation != 1+writers*changes {
		t.Errorf("generation %d", s.state.Generation)
	}
}

// What one change costs does not depend on how many records there are. It is measured where fsync costs nothing.
func BenchmarkPut(b *testing.B) {
	for _, bucket := range []string{Networks, Endpoints} {
		for _, records := range []int{0, 5000} {
			b.Run(fmt.Sprintf("%s/%d", bucket, records), func(b *testing.B) {
				s := newPlaceInMemory(b).open(b)
				name := func(i int) (key, value string) { return fmt.Sprintf("%064x", i), fmt.Sprintf("%0500d", i) }
				if bucket == Networks {
					several(b, s, records, name)
				} else {
					for i := range records {
						key, value := name(i)
						put(b, s, bucket, key, value)
					}
				}
				for i := 0; b.Loop(); i++ {
					put(b, s, bucket, fmt.Sprintf("%064x", i%100), fmt.Sprintf("%0500d", i))
				}
			})
		}
	}
}

func BenchmarkList1000(b *testing.B) {
	s := newPlace(b).open(b)
	several(b, s, 1000, func(i int) (key, value string) { return fmt.Sprintf("%064x", i), fmt.Sprintf("%0500d", i) })
	for b.Loop() {
		if err := s.Each(Networks, func(string, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

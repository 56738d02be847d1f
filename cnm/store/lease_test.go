package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// FT-01: leases are there for the next daemon when this one is killed at any point: nothing is left to Close.
func TestFT01LeasesOutliveTheDaemon(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Endpoints, "a", "one")
	put(t, s, Endpoints, "b", "two")
	put(t, s, Endpoints, "a", "one again")
	put(t, s, Endpoints, "c", "gone")
	for range 2 {
		if err := s.Delete(Endpoints, "c"); err != nil {
			t.Fatal(err)
		}
	}
	// Killed while it wrote.
	if err := os.WriteFile(filepath.Join(s.leaseDir(), "d"+leaseSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write.Lock()
	if err := errors.Join(s.db.close(), s.lock.Close()); err != nil { // which is what the kernel does
		t.Fatal(err)
	}
	s.db = nil
	s.write.Unlock()
	next := p.open(t)
	want(t, next, Endpoints, map[string]string{"a": "one again", "b": "two"})
	if left, err := os.ReadDir(next.leaseDir()); err != nil || len(left) != 2 {
		t.Errorf("left: %v %v", left, err)
	}
	if strings.Contains(p.log.String(), "damage") {
		t.Errorf("log: %s", &p.log)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}

// FT-08: a lease that is damaged, cut or another's is dropped alone, and the log says so.
func TestFT08DamagedLeases(t *testing.T) {
	for name, how := range map[string]func(b []byte) []byte{
		"empty":  func([]byte) []byte { return nil },
		"cut":    func(b []byte) []byte { return b[:len(b)-1] },
		"sum":    func(b []byte) []byte { return b[:65] },
		"record": func(b []byte) []byte { return bytes.Replace(b, []byte("leg"), []byte("lag"), 1) },
	} {
		p := newPlace(t)
		s := p.open(t)
		put(t, s, Endpoints, "a", "leg")
		put(t, s, Endpoints, "b", "sound")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		damage(t, filepath.Join(s.leaseDir(), "a"), how)
		for range 2 {
			s = p.open(t)
			want(t, s, Endpoints, map[string]string{"b": "sound"})
			s.Close()
		}
		if n := strings.Count(p.log.String(), "lease is damaged"); n != 1 {
			t.Errorf("%s: said %d times: %s", name, n, &p.log)
		}
		if err := os.Rename(filepath.Join(s.leaseDir(), "b"), filepath.Join(s.leaseDir(), "c")); err != nil {
			t.Fatal(err)
		}
		want(t, p.open(t), Endpoints, map[string]string{})
	}
}

// FT-09: a lease that cannot be written is refused, and memory is as it was.
func TestFT09LeaseNotWritten(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Endpoints, "a", "leg")
	aside := s.leaseDir() + "-away"
	if err := os.Rename(s.leaseDir(), aside); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(Endpoints, "a", record{Name: "refused"}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v", err)
	}
	want(t, s, Endpoints, map[string]string{"a": "leg"})
	if err := os.Rename(aside, s.leaseDir()); err != nil {
		t.Fatal(err)
	}
	put(t, s, Endpoints, "b", "later")
	want(t, p.reopen(t, s), Endpoints, map[string]string{"a": "leg", "b": "later"})
}

// FZ-12: any bytes as a lease.
func FuzzLease(f *testing.F) {
	raw := []byte(`{"network":"n"}`)
	f.Add("a", raw)
	f.Add("a", append([]byte(leaseHead("a", raw)), raw...))
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		raw, err := parseLease(key, b)
		if err == nil && leaseHead(key, raw)+string(raw) != string(b) {
			t.Errorf("%q from %q", raw, b)
		}
	})
}

// FT-08: the copy follows at once, and while changes go on every second; what was acknowledged in between is in the
// file alone, so damage to that leaves the generation before.
func TestFT08CopyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		s := p.open(t)
		defer s.Close()
		copied := func() string {
			t.Helper()
			synctest.Wait()
			st, err := readState(s.copyPath())
			if err != nil {
				t.Fatal(err)
			}
			return string(st.records[Networks]["a"])
		}
		for _, step := range []struct {
			put, copied string
			after       time.Duration
		}{{"one", "one", 0}, {"two", "one", 0}, {"three", "one", copyPause - 1}, {"", "three", 1}, {"", "three", time.Hour}, {"four", "four", 0}} {
			if step.put != "" {
				put(t, s, Networks, "a", step.put)
			}
			if step.after > 0 {
				<-time.After(step.after)
			}
			if got := copied(); !strings.Contains(got, `"`+step.copied+`"`) {
				t.Errorf("after %+v the copy has %s", step, got)
			}
		}
		put(t, s, Networks, "a", "five")
		// A daemon that is killed here, and a disk that then loses the file.
		killed := newPlace(t)
		if err := os.CopyFS(filepath.Dir(killed.path), os.DirFS(filepath.Dir(p.path))); err != nil {
			t.Fatal(err)
		}
		damage(t, killed.path, damages["record"])
		damage(t, killed.path, damages["metas"])
		next := killed.open(t)
		defer next.Close()
		want(t, next, Networks, map[string]string{"a": "four"})
	})
}

// FT-08: a file that is damaged under a running daemon is found and written anew with the next change.
func TestFT08DamageWhileOpen(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	s.write.Lock() // keeps the check away until the damage is done
	b, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[2*pageSize:])
	if err := os.WriteFile(p.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.uncopied = true
	s.copyLocked()
	s.write.Unlock()
	for _, path := range []string{p.path, s.copyPath()} {
		if st, err := readState(path); err != nil || !same(st, s.state) {
			t.Errorf("%s: %v", path, err)
		}
	}
	put(t, s, Networks, "b", "db")
	want(t, p.reopen(t, s), Networks, map[string]string{"a": "web", "b": "db"})
}

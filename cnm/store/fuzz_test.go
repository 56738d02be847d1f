package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// FZ-12: any bytes as a state file and as its copy. A file that parse lets through must be one that bbolt finds no fault
// with and reads the same from; and the store opens whatever it finds and works.
func FuzzOpen(f *testing.F) {
	small, _ := sound(f, 3)
	large, _ := sound(f, 400)
	cut := bytes.Clone(small)
	clear(cut[2*pageSize:])
	for _, b := range [][]byte{nil, []byte("{}"), small, large, cut, small[:pageSize]} {
		f.Add(b, small)
		f.Add(b, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, b, spare []byte) {
		if st, err := parse(b); err == nil {
			agree(t, b, st)
		}
		p := newPlaceInMemory(t)
		if err := os.MkdirAll(filepath.Dir(p.path), 0o700); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string][]byte{p.path: b, p.path + ".copy": spare} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(p.path, nil)
		if err != nil {
			if st, perr := parse(b); perr == nil && st.Schema != 1 {
				return // of another version
			}
			if st, perr := parse(spare); perr == nil && st.Schema != 1 {
				return
			}
			t.Fatal(err)
		}
		defer s.Close()
		put(t, s, Networks, "new", "net")
		s = p.reopen(t, s)
		var r record
		if ok, err := s.Get(Networks, "new", &r); !ok || err != nil {
			t.Errorf("what was put: %v %v", ok, err)
		}
	})
}

// FZ-12, the parser alone: the checksums of the meta pages are made right, so that what they guard is reached.
func FuzzParse(f *testing.F) {
	small, _ := sound(f, 3)
	large, _ := sound(f, 150)
	f.Add(small)
	f.Add(large)
	f.Fuzz(func(t *testing.T, b []byte) {
		seal(b)
		if st, err := parse(b); err == nil {
			agree(t, b, st)
		}
	})
}

// seal makes the checksums of meta pages right.
func seal(b []byte) {
	for i := 0; i < 2 && len(b) >= (i+1)*pageSize; i++ {
		m := b[i*pageSize+pageHeader:][:metaLen]
		h := fnv.New64a()
		h.Write(m[:metaLen-8])
		order.PutUint64(m[metaLen-8:], h.Sum64())
	}
}

// agree checks that bbolt reads from a file what parse read.
func agree(t *testing.T, b []byte, st state) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agree.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, PageSize: pageSize})
	if err != nil {
		t.Fatalf("bbolt does not open what parse lets through: %v", err)
	}
	defer db.Close()
	m0, _ := parseMeta(b, 0)
	m1, _ := parseMeta(b, 1)
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			if m0.usable && m1.usable { // it minds a torn meta page that it does not use
				t.Errorf("bbolt finds in what parse lets through: %v", err)
			}
		}
		n := 0
		err := tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(k, v []byte) error {
				if string(name) == headerBucket {
					return nil
				}
				n++
				if !bytes.Equal(v, st.records[string(name)][string(k)]) {
					t.Errorf("%q in %q: bbolt %q, parse %q", k, name, v, st.records[string(name)][string(k)])
				}
				return nil
			})
		})
		for _, records := range st.records {
			n -= len(records)
		}
		if n != 0 {
			t.Errorf("bbolt has %d records more", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What a caller was told is what he reads, through reopening, damage of either file and changes that fail: a map beside it
// says the same at any time.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlaceInMemory(t)
		s := p.open(t)
		twin := map[string]string{}
		keys := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		damage := func(rt *rapid.T, path string) {
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				rt.Fatal(err)
			}
			i := rapid.IntRange(0, len(b)-1).Draw(rt, "where")
			if rapid.Bool().Draw(rt, "cut") {
				b = b[:i]
			} else {
				b[i] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				rt.Fatal(err)
			}
			s = p.open(t)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"shrink": func(*rapid.T) { s.Shrink() },
			"put": func(rt *rapid.T) {
				k, n := keys.Draw(rt, "key"), rapid.IntRange(0, 9000).Draw(rt, "size")
				twin[k] = fmt.Sprintf("%0*d", n, len(twin))
				put(t, s, Networks, k, twin[k])
			},
			"delete": func(rt *rapid.T) {
				k := keys.Draw(rt, "key")
				delete(twin, k)
				if err := s.Delete(Networks, k); err != nil {
					rt.Fatal(err)
				}
			},
			"refused": func(rt *rapid.T) {
				if s.Put(Networks, keys.Draw(rt, "key"), func() {}) == nil {
					rt.Error("no error")
				}
			},
			"copy": func(rt *rapid.T) { // as after a while
				s.write.Lock()
				s.copyLocked()
				s.write.Unlock()
			},
			"reopen":      func(rt *rapid.T) { s = p.reopen(t, s) },
			"damage file": func(rt *rapid.T) { damage(rt, p.path) },
			"damage copy": func(rt *rapid.T) { damage(rt, s.copyPath()) },
			"": func(rt *rapid.T) {
				got := map[string]string{}
				s.Each(Networks, func(key string, raw []byte) error {
					var r record
					err := json.Unmarshal(raw, &r)
					got[key] = r.Name
					return err
				})
				if fmt.Sprint(got) != fmt.Sprint(twin) {
					rt.Fatalf("%.200v, want %.200v", got, twin)
				}
			},
		})
		s.Close()
	})
}

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// maxFile bounds what is read into memory.
const maxFile = 256 << 20

// readState reads and checks a file. It is fs.ErrNotExist where there is none.
func readState(path string) (state, error) {
	b, err := readFile(path)
	if err != nil {
		return state{}, err
	}
	return parse(b)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

// load finds the newest state there is, and sees to it that the file has it or is not there.
func (s *Store) load() (state, error) {
	main, mainErr := readState(s.path)
	spare, spareErr := readState(s.copyPath())
	if errors.Is(mainErr, fs.ErrNotExist) && errors.Is(spareErr, fs.ErrNotExist) {
		return s.empty(), nil
	}
	if mainErr == nil && (spareErr != nil || main.Generation >= spare.Generation) {
		return main, nil
	}
	if mainErr == nil {
		mainErr = fmt.Errorf("generation %d is older than the copy's", main.Generation)
	}
	// Whoever cannot read may find it damaged where it is not.
	if err := errors.Join(readable(mainErr), readable(spareErr)); err != nil {
		return state{}, err
	}
	if err := s.setAside(s.path); err != nil {
		return state{}, err
	}
	if spareErr == nil {
		s.log.Error("state file is damaged or missing; its copy is used", "path", s.path, "damage", mainErr, "generation", spare.Generation)
		return spare, nil
	}
	if err := s.setAside(s.copyPath()); err != nil {
		return state{}, err
	}
	s.log.Error("state file and its copy are damaged; beginning without networks", "path", s.path, "damage", mainErr, "of copy", spareErr)
	return s.empty(), nil
}

// readable passes on those errors that come from reading a file and not from what is in it.
func readable(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && !errors.Is(err, fs.ErrNotExist) {
		return e
	}
	return nil
}

func (s *Store) empty() state {
	st := state{header: header{Schema: s.schema()}, records: make(image)}
	st.advance()
	return st
}

func (s *Store) copyPath() string { return s.path + ".copy" }

// setAside renames a file out of the way, if there is one.
func (s *Store) setAside(path string) error {
	err := os.Rename(path, path+".bad-"+time.Now().UTC().Format("20060102T150405.000000000Z"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readyLocked makes the file be what memory is, and opens it.
func (s *Store) readyLocked() error {
	if s.db != nil {
		return nil
	}
	if s.verifyLocked(s.state.header) != nil {
		if err := s.rewriteLocked(); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
		if err := s.verifyLocked(s.state.header); err != nil {
			return fmt.Errorf("read back %s: %w", s.path, err)
		}
	}
	db, err := openDatabase(s.path)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	s.db = db
	return nil
}

// verifyLocked reads the file back. When it has what the header says, it is copied.
func (s *Store) verifyLocked(h header) error {
	b, err := readFile(s.path)
	if err != nil {
		return err
	}
	found, err := parse(b)
	if err == nil && found.header != h {
		err = fmt.Errorf("generation %d, want %d", found.Generation, h.Generation)
	}
	if err != nil {
		return err
	}
	s.writeCopyLocked(b)
	return nil
}

// rewriteLocked replaces the file by one that has what memory has.
func (s *Store) rewriteLocked() (err error) {
	fresh := s.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(fresh) // best effort: the next attempt begins with it
		}
	}()
	db, err := openDatabase(fresh)
	if err != nil {
		return err
	}
	if err := errors.Join(db.commit(s.state.records, s.state.header), db.close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, s.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

// dropLocked gives up a database whose state is not known.
func (s *Store) dropLocked() {
	db := s.db
	s.db = nil
	if err := db.close(); err != nil {
		s.log.Warn("state file does not close", "path", s.path, "err", err)
	}
}

// renewLocked gives up a database and opens it again, written anew if need be.
func (s *Store) renewLocked() {
	s.dropLocked()
	if err := s.readyLocked(); err != nil {
		s.log.Error("state file is not what it should be; it is written anew before the next change", "path", s.path, "err", err)
	}
}

const (
	// compactFrom is how large a file is worth to be written anew.
	compactFrom = 128 << 10
	// compactPart is how much larger than its records the file must be. One that is as bbolt leaves it is two to three times as large.
	compactPart = 8
)

// compactLocked writes the file anew when it has little in it. bbolt's file does not shrink, and the pages of it that were used
// are memory of this process.
func (s *Store) compactLocked() {
	if s.db == nil {
		return
	}
	info, err := os.Stat(s.path)
	if err != nil || info.Size() < max(compactFrom, compactPart*s.state.records.size()) {
		return
	}
	s.dropLocked()
	if err := errors.Join(s.rewriteLocked(), s.readyLocked()); err != nil {
		s.log.Error("state file is not written anew; that is tried again before the next change", "path", s.path, "err", err)
	}
}

// replace makes b the content of a file, all or nothing as long as there is no power cut.
func replace(path string, b []byte) error {
	fresh := path + ".new"
	err := os.WriteFile(fresh, b, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh) // best effort: the next one begins by truncating it
	}
	return err
}

// syncDir makes a rename in a directory survive a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// database is a bbolt file that has been parsed, with what it takes to survive it.
type database struct {
	bolt *bbolt.DB
	file *os.File // bbolt's
	// broken means that bbolt panicked: it may hold its locks for ever.
	broken bool
}

// openDatabase opens a file that is known to be sound, or makes one.
func openDatabase(path string) (*database, error) {
	db := &database{}
	err := db.guard(func() (err error) {
		db.bolt, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockWait, PageSize: pageSize, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
			MaxSize: maxFile,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				db.file, err = os.OpenFile(name, flag, mode)
				return db.file, err
			},
		})
		return err
	})
	if err == nil {
		err = db.file.Chmod(0o600)
	}
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

// commit makes a change with its header in one transaction.
func (db *database) commit(change image, h header) error {
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return db.guard(func() error {
		return db.bolt.Update(func(tx *bbolt.Tx) error {
			for name, records := range change {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				if err := apply(b, records); err != nil {
					return err
				}
			}
			b, err := tx.CreateBucketIfNotExists([]byte(headerBucket))
			if err != nil {
				return err
			}
			return b.Put([]byte(headerKey), raw)
		})
	})
}

func apply(b *bbolt.Bucket, records map[string][]byte) error {
	for key, raw := range records {
		var err error
		if raw == nil {
			err = b.Delete([]byte(key))
		} else {
			err = b.Put([]byte(key), raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// guard runs f with faults on mapped memory turned into panics, and panics into errors.
func (db *database) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db.broken = true
			err = fmt.Errorf("state file is damaged: %v", p)
		}
	}()
	return f()
}

// close ends the use of the file. One that broke is left to itself, but for its descriptor: closing it would wait for a
// lock that is never released.
func (db *database) close() error {
	switch {
	case db.broken && db.file != nil:
		return db.file.Close()
	case db.bolt != nil:
		return db.guard(db.bolt.Close)
	}
	return nil
}

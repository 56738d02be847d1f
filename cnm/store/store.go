package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// The buckets of the Controller.
const (
	Networks  = "networks"
	Endpoints = "endpoints"
)

// ErrInUse means that another process has the file.
var ErrInUse = errors.New("another usernet daemon uses this state; end that one first, or give this one a state directory of its own")

// ErrClosed means that the Store is closed.
var ErrClosed = errors.New("store is closed")

// lockWait is how long Open waits for a daemon that is on its way out.
const lockWait = 2 * time.Second

// Store is an open state file.
type Store struct {
	path  string
	log   *slog.Logger
	steps []migration
	lock  *os.File

	// write is held by a change from its beginning until memory has it; it is taken before mu.
	write sync.Mutex
	// +checklocks:write
	db *database // nil: the file is not what memory is, and must be made so before the next change
	// +checklocks:write
	closed bool
	// +checklocks:write
	copyFailed bool

	mu sync.RWMutex
	// +checklocks:mu
	state state
}

// Open opens the file at path, or makes it. log may be nil.
func Open(path string, log *slog.Logger) (*Store, error) {
	return open(path, log, migrations, lockWait)
}

func open(path string, log *slog.Logger, steps []migration, wait time.Duration) (_ *Store, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{path: path, log: log, steps: steps}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open state: %w", err), s.Close())
		}
	}()
	if err := private(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if s.lock, err = lock(path+".lock", wait); err != nil {
		return nil, err
	}
	found, err := s.load()
	if err != nil {
		return nil, err
	}
	found, err = s.migrate(found)
	if err != nil {
		return nil, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.state = found
	return s, s.readyLocked()
}

// private makes a directory that is nobody else's to read.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return os.Chmod(dir, 0o700)
}

// Close ends the use of the file.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.db != nil {
		err = s.db.close()
		s.db = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Tx is a change that is being made. It is of use until the function it was given to returns.
type Tx struct {
	s *Store
	// staged are the records that change; nil removes one.
	staged image
}

// Update makes a change: all that f puts and deletes, or nothing. When it returns nil, the change is on the disk. f must
// not call Update.
func (s *Store) Update(f func(*Tx) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return ErrClosed
	}
	tx := &Tx{s: s, staged: make(image)}
	if err := f(tx); err != nil {
		return err
	}
	if len(tx.staged) == 0 {
		return nil
	}
	if err := s.readyLocked(); err != nil {
		return err
	}
	return s.commitLocked(tx.staged)
}

// Put stores v as JSON.
func (tx *Tx) Put(bucket, key string, v any) error {
	if bucket == "" || bucket == headerBucket || key == "" || len(key) > maxKey {
		return fmt.Errorf("store %q in %q: not a name for a record", key, bucket)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store %q in %q: %w", key, bucket, err)
	}
	tx.stage(bucket, key, raw)
	return nil
}

// maxKey is bbolt's.
const maxKey = 32768

// Delete removes a record; that there is none is no error.
func (tx *Tx) Delete(bucket, key string) {
	if bucket != headerBucket {
		tx.stage(bucket, key, nil)
	}
}

func (tx *Tx) stage(bucket, key string, raw []byte) {
	if tx.staged[bucket] == nil {
		tx.staged[bucket] = make(map[string][]byte)
	}
	tx.staged[bucket][key] = raw
}

// Put stores one record.
func (s *Store) Put(bucket, key string, v any) error {
	return s.Update(func(tx *Tx) error { return tx.Put(bucket, key, v) })
}

// Delete removes one record; that there is none is no error.
func (s *Store) Delete(bucket, key string) error {
	return s.Update(func(tx *Tx) error { tx.Delete(bucket, key); return nil })
}

// Get reads a record into v and reports whether there is one.
func (s *Store) Get(bucket, key string, v any) (bool, error) {
	s.mu.RLock()
	raw, ok := s.state.records[bucket][key]
	s.mu.RUnlock()
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return true, fmt.Errorf("read %q in %q: %w", key, bucket, err)
	}
	return true, nil
}

// Each calls f for every record of a bucket, in the order of their keys, as they were when it was called. raw is not to be
// changed.
func (s *Store) Each(bucket string, f func(key string, raw []byte) error) error {
	s.mu.RLock()
	records := maps.Clone(s.state.records[bucket])
	s.mu.RUnlock()
	for _, key := range slices.Sorted(maps.Keys(records)) {
		if err := f(key, records[key]); err != nil {
			return err
		}
	}
	return nil
}

// commitLocked brings a change to the disk and then into memory.
func (s *Store) commitLocked(staged image) error {
	next := s.state
	for bucket, records := range staged {
		for key, raw := range records {
			next.digest.toggle(bucket, key, s.state.records[bucket][key])
			next.digest.toggle(bucket, key, raw)
		}
	}
	next.advance()
	err := s.db.commit(staged, next.header)
	if err == nil {
		err = s.verifyLocked(next.header)
	}
	if err != nil {
		s.dropLocked()
		if again := s.readyLocked(); again != nil {
			s.log.Error("state file is not what it should be; it is written anew before the next change", "path", s.path, "err", again)
		}
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.mu.Lock()
	for bucket, records := range staged {
		for key, raw := range records {
			s.state.records.set(bucket, key, raw)
		}
	}
	s.state.header, s.state.digest = next.header, next.digest
	s.mu.Unlock()
	return nil
}

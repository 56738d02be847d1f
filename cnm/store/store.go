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

	"github.com/usernet/usernet/internal/trim"
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

	changed chan struct{} // of one element: there is something to copy
	stop    chan struct{} // closed by Close
	wg      sync.WaitGroup

	// write is held by a change of the file from its beginning until memory has it; it is taken before leasing and mu.
	write sync.Mutex
	// +checklocks:write
	db *database // nil: the file is not what memory is, and must be made so before the next change
	// +checklocks:write
	uncopied bool // the copy is older than the file
	// +checklocks:write
	copyFailed bool

	// leasing is held by a change of a lease; it is taken before mu.
	leasing sync.Mutex
	// closed is written with write and leasing held, so either is enough to read it.
	closed bool

	mu sync.RWMutex
	// +checklocks:mu
	state state
	// +checklocks:mu
	leases map[string][]byte
}

// Open opens the file at path, or makes it. log may be nil.
func Open(path string, log *slog.Logger) (*Store, error) {
	return open(path, log, migrations, lockWait)
}

func open(path string, log *slog.Logger, steps []migration, wait time.Duration) (_ *Store, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{path: path, log: log, steps: steps, changed: make(chan struct{}, 1), stop: make(chan struct{})}
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
	s.state = found
	if s.leases, err = s.loadLeases(); err != nil {
		return nil, err
	}
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.wg.Go(s.keepCopy)
	return s, nil
}

func (s *Store) ready() error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.readyLocked()
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

// Shrink lets go of the memory and of the room on the disk that records took which have gone.
func (s *Store) Shrink() {
	s.write.Lock()
	defer s.write.Unlock()
	s.compactLocked()
	s.mu.Lock()
	defer s.mu.Unlock()
	for bucket, records := range s.state.records {
		s.state.records[bucket] = trim.Map(records)
	}
	s.leases = trim.Map(s.leases)
}

// Close ends the use of the file, of which the copy is then the same.
func (s *Store) Close() error {
	err := s.close()
	s.wg.Wait()
	return err
}

func (s *Store) close() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.leasing.Lock()
	defer s.leasing.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.stop)
	s.copyLocked()
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

// maxKey is bbolt's.
const maxKey = 32768

// Put stores v as JSON.
func (s *Store) Put(bucket, key string, v any) error {
	if bucket == "" || bucket == headerBucket || key == "" || len(key) > maxKey {
		return fmt.Errorf("store %q in %q: not a name for a record", key, bucket)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("store %q in %q: %w", key, bucket, err)
	}
	return s.change(bucket, key, raw)
}

// Delete removes one record; that there is none is no error.
func (s *Store) Delete(bucket, key string) error {
	if bucket == headerBucket || key == "" {
		return nil
	}
	return s.change(bucket, key, nil)
}

// change makes a record be raw; nil removes it.
func (s *Store) change(bucket, key string, raw []byte) error {
	if bucket == Endpoints {
		return s.changeLease(key, raw)
	}
	return s.commit(image{bucket: {key: raw}})
}

// Get reads a record into v and reports whether there is one.
func (s *Store) Get(bucket, key string, v any) (bool, error) {
	s.mu.RLock()
	raw, ok := s.recordsLocked(bucket)[key]
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
	records := maps.Clone(s.recordsLocked(bucket))
	s.mu.RUnlock()
	for _, key := range slices.Sorted(maps.Keys(records)) {
		if err := f(key, records[key]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) recordsLocked(bucket string) map[string][]byte {
	if bucket == Endpoints {
		return s.leases
	}
	return s.state.records[bucket]
}

// commit brings a change to the disk and then into memory: all of it or nothing.
func (s *Store) commit(staged image) error {
	s.write.Lock()
	defer s.write.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.readyLocked(); err != nil {
		return err
	}
	next := s.state
	for bucket, records := range staged {
		for key, raw := range records {
			next.digest.toggle(bucket, key, s.state.records[bucket][key])
			next.digest.toggle(bucket, key, raw)
		}
	}
	next.advance()
	if err := s.db.commit(staged, next.header); err != nil {
		s.renewLocked()
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
	s.uncopied = true
	select {
	case s.changed <- struct{}{}:
	default: // it is known
	}
	return nil
}

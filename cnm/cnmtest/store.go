package cnmtest

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
)

// Store is a cnm.Store that keeps JSON in memory; it outlives Controllers as a file does.
type Store struct {
	// Fail, when not nil, is asked before each change, Put or Delete, and may refuse it.
	Fail func(method, bucket string) error

	mu      sync.Mutex
	buckets map[string]map[string][]byte
}

// NewStore makes an empty one.
func NewStore() *Store { return &Store{buckets: make(map[string]map[string][]byte)} }

func (s *Store) Put(bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		if err := s.Fail("Put", bucket); err != nil {
			return err
		}
	}
	if s.buckets[bucket] == nil {
		s.buckets[bucket] = make(map[string][]byte)
	}
	s.buckets[bucket][key] = raw
	return nil
}

func (s *Store) Delete(bucket, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		if err := s.Fail("Delete", bucket); err != nil {
			return err
		}
	}
	delete(s.buckets[bucket], key)
	return nil
}

// Each goes by key.
func (s *Store) Each(bucket string, f func(key string, raw []byte) error) error {
	s.mu.Lock()
	b := maps.Clone(s.buckets[bucket])
	s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if err := f(k, b[k]); err != nil {
			return err
		}
	}
	return nil
}

// Len is how many keys a bucket has.
func (s *Store) Len(bucket string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buckets[bucket])
}

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// migration turns the records of one schema into those of the next.
type migration func(image) error

// migrations[i] turns schema i+1 into schema i+2.
var migrations = []migration{}

// schema is the one this program knows.
func (s *Store) schema() int { return len(s.steps) + 1 }

// migrate brings a state to the schema of this program. A copy of the file as it was is kept; a newer one is left
// alone, since what it means is not known here.
func (s *Store) migrate(old state) (state, error) {
	want := s.schema()
	if old.Schema == want {
		return old, nil
	}
	if old.Schema > want || old.Schema < 1 {
		return state{}, fmt.Errorf("%s has schema %d and this usernet knows %d: it was written by a newer one; "+
			"run that one, or move this file and %s away to begin without networks", s.path, old.Schema, want, s.copyPath())
	}
	kept := fmt.Sprintf("%s.schema-%d", s.path, old.Schema)
	if err := s.keep(kept); err != nil {
		return state{}, fmt.Errorf("keep a copy before migration: %w", err)
	}
	now := state{header: header{Schema: want, Generation: old.Generation}, records: old.records.clone()}
	for _, step := range s.steps[old.Schema-1:] {
		if err := step(now.records); err != nil {
			return state{}, errors.Join(fmt.Errorf("migrate %s from schema %d: %w", s.path, old.Schema, err), os.Remove(kept))
		}
	}
	now.digest = digestOf(now.records)
	now.advance()
	s.log.Info("state file migrated", "path", s.path, "from", old.Schema, "to", want, "kept", kept)
	return now, nil
}

// keep copies what a state was read from.
func (s *Store) keep(path string) error {
	b, err := readFile(s.path)
	if errors.Is(err, fs.ErrNotExist) { // it came out of the copy
		b, err = readFile(s.copyPath())
	}
	if err != nil {
		return err
	}
	return replace(path, b)
}

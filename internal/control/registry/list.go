package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxState bounds a state.json in bytes; the longest command line is what it has most of.
const maxState = 1 << 20

// List returns the running sandboxes, oldest first, and removes what dead ones have left. One that
// is just being started, or whose state cannot be read, is not in it.
func (d *Dir) List(ctx context.Context) ([]Entry, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var list []Entry
	for _, id := range names {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		if CheckID(id) != nil {
			continue
		}
		if !locked(d.root, filepath.Join(id, lockName)) {
			if err := d.clean(id); err != nil {
				return nil, err
			}
			continue
		}
		if e, err := d.read(id); err == nil {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// clean removes the directory of a sandbox that seems dead, if it still does once nobody can start
// one of that id.
func (d *Dir) clean(id string) error {
	all, err := lockFile(d.root, dirLock, true)
	if err != nil {
		return fmt.Errorf("remove dead sandbox %s: %w", id, err)
	}
	defer all.Close()
	if locked(d.root, filepath.Join(id, lockName)) {
		return nil
	}
	if err := d.root.RemoveAll(id); err != nil {
		return fmt.Errorf("remove dead sandbox %s: %w", id, err)
	}
	return nil
}

func (d *Dir) read(id string) (Entry, error) {
	f, err := d.root.Open(filepath.Join(id, stateName))
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return Entry{}, err
	}
	if len(b) > maxState {
		return Entry{}, errors.New("it is too long")
	}
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, err
	}
	if e.ID != id {
		return Entry{}, fmt.Errorf("it says id %q", e.ID)
	}
	return e, nil
}

// Find returns the running sandbox of that name, or whose shim or init has that process id. The
// error wraps ErrNotFound.
func (d *Dir) Find(ctx context.Context, nameOrPID string) (Entry, error) {
	list, err := d.List(ctx)
	if err != nil {
		return Entry{}, err
	}
	for _, e := range list {
		if e.ID == nameOrPID {
			return e, nil
		}
	}
	if pid, err := strconv.Atoi(nameOrPID); err == nil && pid > 0 {
		for _, e := range list {
			if e.PID == pid || e.ShimPID == pid {
				return e, nil
			}
		}
	}
	return Entry{}, fmt.Errorf("find sandbox %q: %w; usernet ps shows which there are", nameOrPID, ErrNotFound)
}

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
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		if CheckName(name) != nil {
			continue
		}
		if !locked(d.root, filepath.Join(name, lockName)) {
			if err := d.clean(name); err != nil {
				return nil, err
			}
			continue
		}
		if e, err := d.read(name); err == nil {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

// clean removes the directory of a sandbox that seems dead, if it still does once nobody can start
// one of that name.
func (d *Dir) clean(name string) error {
	all, err := lockFile(d.root, dirLock, true)
	if err != nil {
		return fmt.Errorf("remove dead sandbox %s: %w", name, err)
	}
	defer all.Close()
	if locked(d.root, filepath.Join(name, lockName)) {
		return nil
	}
	if err := d.root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove dead sandbox %s: %w", name, err)
	}
	return nil
}

func (d *Dir) read(name string) (Entry, error) {
	f, err := d.root.Open(filepath.Join(name, stateName))
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
	if e.Name != name {
		return Entry{}, fmt.Errorf("it says name %q", e.Name)
	}
	return e, nil
}

// Find returns the running sandbox that ref names: its id, its name, the beginning of its id, or the process id of its
// shim or init, in this order. The error wraps ErrNotFound or ErrAmbiguous.
func (d *Dir) Find(ctx context.Context, ref string) (Entry, error) {
	list, err := d.List(ctx)
	if err != nil {
		return Entry{}, err
	}
	return find(list, ref)
}

func find(list []Entry, ref string) (Entry, error) {
	pid, err := strconv.Atoi(ref)
	byPID := err == nil && pid > 0
	for _, is := range []func(Entry) bool{
		func(e Entry) bool { return e.ID == ref },
		func(e Entry) bool { return e.Name == ref },
		func(e Entry) bool { return ref != "" && strings.HasPrefix(e.ID, ref) },
		func(e Entry) bool { return byPID && (e.PID == pid || e.ShimPID == pid) },
	} {
		var found []Entry
		for _, e := range list {
			if is(e) {
				found = append(found, e)
			}
		}
		if len(found) > 1 {
			return Entry{}, fmt.Errorf("find sandbox %q: %w; write more of the id", ref, ErrAmbiguous)
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return Entry{}, fmt.Errorf("find sandbox %q: %w; usernet ps shows which there are", ref, ErrNotFound)
}

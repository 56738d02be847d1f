package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control/registry"
)

// Modes that are not in Docker's words.
const (
	privateMode   = "private"
	containerMode = "container:"
)

func isContainerMode(mode string) bool { return strings.HasPrefix(mode, containerMode) }

// found is a sandbox by both who know of it; one of the two may be missing.
type found struct {
	ID, Name string
	joined   *cnm.SandboxInfo
	entry    *registry.Entry
}

// running reports whether its command runs, as far as anybody has said.
func (c found) running() bool { return c.entry != nil || c.pid() != 0 }

func (c found) pid() int {
	if c.joined != nil && c.joined.PID != 0 {
		return c.joined.PID
	}
	if c.entry != nil {
		return c.entry.PID
	}
	return 0
}

func (c found) created() time.Time {
	if c.entry != nil {
		return c.entry.Created
	}
	return c.joined.Created
}

// mode is its network in Docker's words.
func (c found) mode() string {
	switch {
	case c.entry != nil && c.entry.Mode != "":
		return c.entry.Mode
	case c.joined != nil && len(c.joined.Networks) > 0:
		return c.joined.Networks[0].Network
	case c.joined != nil:
		return "bridge"
	}
	return privateMode
}

// all returns every sandbox, the newest first.
func (e *Engine) all(ctx context.Context) ([]found, error) {
	// In this order: one that starts between the two questions is in the second answer.
	joined := e.c.Sandboxes()
	entries, err := e.reg.List(ctx)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*found, len(joined)+len(entries))
	list := make([]*found, 0, len(joined)+len(entries))
	for i := range joined {
		s := &joined[i]
		f := &found{ID: s.ID, Name: s.Name, joined: s}
		byID[s.ID] = f
		list = append(list, f)
	}
	for i := range entries {
		s := &entries[i]
		if f := byID[s.ID]; f != nil {
			f.entry = s
			continue
		}
		list = append(list, &found{ID: s.ID, Name: s.Name, entry: s})
	}
	slices.SortStableFunc(list, func(a, b *found) int { return b.created().Compare(a.created()) })
	sorted := make([]found, len(list))
	for i, f := range list {
		sorted[i] = *f
	}
	return sorted, nil
}

// find finds one by its id, its name, or the beginning of its id.
func (e *Engine) find(ctx context.Context, ref string) (found, error) {
	list, err := e.all(ctx)
	if err != nil {
		return found{}, err
	}
	return cnm.MatchContainer(slices.Values(list), ref, func(c found) (id, name string) { return c.ID, c.Name })
}

// derivedID is an id that is always the same for the same two: the Endpoint of a container in a Network
// that has none.
func derivedID(a, b string) string {
	sum := sha256.Sum256([]byte(a + "/" + b))
	return hex.EncodeToString(sum[:])
}

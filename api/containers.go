package api

import (
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/usernet/usernet/internal/localhttp"
)

func (s *server) containerList(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r, containerFilters...)
	if err != nil {
		return err
	}
	match, err := f.container()
	if err != nil {
		return err
	}
	limit, limited, err := number(r, "limit")
	if err != nil {
		return err
	}
	all, err := s.b.Containers(r.Context())
	if err != nil {
		return err
	}
	v := versionOf(r.Context())
	// Who asks for a state, or for the newest so many, means those that do not run too.
	everyState := flag(r, "all") || limited && limit > 0 || len(f["status"]) > 0
	list := []any{} // never null
	for _, c := range all {
		if limited && limit > 0 && len(list) == limit {
			break
		}
		if match(c) && (everyState || c.State == container.StateRunning) {
			list = append(list, v.listedContainer(c))
		}
	}
	localhttp.Answer(w, http.StatusOK, list)
	return nil
}

func (s *server) containerInspect(w http.ResponseWriter, r *http.Request) error {
	c, err := s.b.Container(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	localhttp.Answer(w, http.StatusOK, versionOf(r.Context()).container(c))
	return nil
}

func (s *server) containerKill(w http.ResponseWriter, r *http.Request) error {
	sig, err := parseSignal(r.URL.Query().Get("signal"), syscall.SIGKILL)
	if err != nil {
		return err
	}
	ref := r.PathValue("id")
	if err := s.b.ContainerKill(r.Context(), ref, sig); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// stopTimeout is how long a container has to end by itself, unless the client says.
const stopTimeout = 10

func (s *server) containerStop(w http.ResponseWriter, r *http.Request) error {
	seconds, given, err := number(r, "t")
	if err != nil {
		return err
	}
	if !given {
		seconds = stopTimeout
	}
	name := ""
	if versionOf(r.Context()) >= versionStopSignal {
		name = r.URL.Query().Get("signal")
	}
	sig, err := parseSignal(name, syscall.SIGTERM)
	if err != nil {
		return err
	}
	// A day is for ever, and no overflow.
	timeout := time.Duration(min(max(seconds, -1), 24*60*60)) * time.Second
	if err := s.b.ContainerStop(r.Context(), r.PathValue("id"), sig, timeout); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) containerRemove(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.ContainerRemove(r.Context(), r.PathValue("id"), flag(r, "force")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

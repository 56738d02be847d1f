package api

import (
	"net/http"

	"github.com/moby/moby/api/types/system"

	"github.com/usernet/usernet/internal/localhttp"
)

func (s *server) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Builder-Version", "2")
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, _ = w.Write([]byte("OK")) // a client that has gone needs no answer
	return nil
}

func (s *server) version(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Version(r.Context())
	if err != nil {
		return err
	}
	v.APIVersion, v.MinAPIVersion = MaxVersion.String(), MinVersion.String()
	v.Components = append([]system.ComponentVersion{{
		Name: "Engine", Version: v.Version,
		Details: map[string]string{
			"ApiVersion": v.APIVersion, "MinAPIVersion": v.MinAPIVersion, "GitCommit": v.GitCommit, "GoVersion": v.GoVersion,
			"Os": v.Os, "Arch": v.Arch, "KernelVersion": v.KernelVersion, "BuildTime": v.BuildTime, "Experimental": "false",
		},
	}}, v.Components...)
	localhttp.Answer(w, http.StatusOK, v)
	return nil
}

func (s *server) info(w http.ResponseWriter, r *http.Request) error {
	i, err := s.b.Info(r.Context())
	if err != nil {
		return err
	}
	localhttp.Answer(w, http.StatusOK, i)
	return nil
}

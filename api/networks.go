package api

import (
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/localhttp"
)

func (s *server) networkList(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r, networkFilters...)
	if err != nil {
		return err
	}
	match, err := f.network()
	if err != nil {
		return err
	}
	all, err := s.b.Networks(r.Context())
	if err != nil {
		return err
	}
	v := versionOf(r.Context())
	list := []any{} // never null
	for _, n := range all {
		if !match(n) {
			continue
		}
		if v < versionListBrief { // shows all containers
			if n, err = s.b.Network(r.Context(), n.ID); fault.KindOf(err) == fault.NotFound {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
		}
		list = append(list, v.listedNetwork(n))
	}
	localhttp.Answer(w, http.StatusOK, list)
	return nil
}

func (s *server) networkInspect(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if verbose := q.Get("verbose"); verbose != "" {
		// There are no services, so it changes nothing; but it must be one.
		if _, err := strconv.ParseBool(verbose); err != nil {
			return fault.New(fault.Invalid, "invalid value for verbose: %s: %w", verbose, err)
		}
	}
	ref := r.PathValue("id")
	n, err := s.b.Network(r.Context(), ref)
	if err != nil {
		return err
	}
	if scope := q.Get("scope"); scope != "" && scope != n.Scope {
		return fault.New(fault.NotFound, "network %s not found", ref)
	}
	localhttp.Answer(w, http.StatusOK, versionOf(r.Context()).network(n))
	return nil
}

func (s *server) networkCreate(w http.ResponseWriter, r *http.Request) error {
	var req network.CreateRequest
	if err := readBody(r, &req); err != nil {
		return err
	}
	if versionOf(r.Context()) < versionEnableIPv4 {
		req.EnableIPv4 = nil
	}
	resp, err := s.b.NetworkCreate(r.Context(), req)
	if err != nil {
		return err
	}
	localhttp.Answer(w, http.StatusCreated, resp)
	return nil
}

func (s *server) networkConnect(w http.ResponseWriter, r *http.Request) error {
	var req network.ConnectRequest
	if err := readBody(r, &req); err != nil {
		return err
	}
	if err := named(req.Container); err != nil {
		return err
	}
	if versionOf(r.Context()) < versionConnectedMAC && req.EndpointConfig != nil {
		req.EndpointConfig.MacAddress = nil
	}
	if err := s.b.NetworkConnect(r.Context(), r.PathValue("id"), req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) networkDisconnect(w http.ResponseWriter, r *http.Request) error {
	var req network.DisconnectRequest
	if err := readBody(r, &req); err != nil {
		return err
	}
	if err := named(req.Container); err != nil {
		return err
	}
	if err := s.b.NetworkDisconnect(r.Context(), r.PathValue("id"), req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// named refuses a request that forgot its container.
func named(container string) error {
	if container == "" {
		return fault.New(fault.Invalid, "invalid container name or ID: value is empty")
	}
	return nil
}

func (s *server) networkRemove(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.NetworkRemove(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) networkPrune(w http.ResponseWriter, r *http.Request) error {
	f, err := filtersOf(r, pruneFilters...)
	if err != nil {
		return err
	}
	match, err := f.prune(s.now())
	if err != nil {
		return err
	}
	names, err := s.b.NetworkPrune(r.Context(), match)
	if err != nil {
		return err
	}
	localhttp.Answer(w, http.StatusOK, network.PruneReport{NetworksDeleted: names})
	return nil
}

package main

import (
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

const (
	// nameClients ask at once: enough that the server is never without a question.
	nameClients = 50
	// namePace is the questions a second that a server must answer without losing any.
	namePace = 5000

	thousand = 1e3
	percent  = 100
)

// localNames asks for a neighbour as fast as it is answered.
func localNames(_ *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.names.IsValid() {
		return nil, nil
	}
	r, err := s.inside.Do(load.Request{Op: load.Names, To: s.names, Name: s.name, Streams: nameClients, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.LocalNames: r.Rate / thousand, report.LocalNamesP99: r.P99 / thousand}, nil
}

// pacedNames asks for it at regular times.
func pacedNames(_ *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.names.IsValid() {
		return nil, nil
	}
	r, err := s.inside.Do(load.Request{Op: load.Names, To: s.names, Name: s.name, Streams: nameClients, PerSecond: namePace, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{
		report.PacedNamesP99: r.P99 / thousand, report.PacedNamesLoss: percent * float64(r.Lost) / float64(r.Total),
	}, nil
}

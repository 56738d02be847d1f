package main

import (
	"errors"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/stack/spec"
)

// newBackend makes the live Network of the datapath process.
func newBackend(n spec.Network, o datapath.Options) (datapath.Backend, error) {
	return nil, errors.New("make network: the stack is not linked in")
}

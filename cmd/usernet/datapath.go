package main

import (
	"syscall"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/spec"
)

// newBackend makes the live Network of the datapath process. It is wired here so that no other
// package links both the process's protocol and the stack.
func newBackend(n spec.Network, o datapath.Options) (datapath.Backend, error) {
	return stack.New(n, stack.Options{
		Log: o.Log,
		EndpointDown: func(id string, cause error) {
			o.Event(datapath.Event{Kind: datapath.EventEndpointDown, ID: id, Cause: cause.Error()})
		},
		Descriptors: descriptorLimit(),
	})
}

// descriptorLimit is how many files the process may have open, 0 when that is unknown.
func descriptorLimit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(l.Cur, 1<<30))
}

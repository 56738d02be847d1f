package main

import (
	"log/slog"
	"syscall"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/spec"
)

// host is what the Networks of the datapath process share. It is wired here so that no other
// package links both the process's protocol and the stack.
type host struct{ *stack.Host }

func newHost(log *slog.Logger) datapath.Host {
	return host{stack.NewHost(stack.HostOptions{Log: log, Descriptors: descriptorLimit()})}
}

// New makes a live Network.
func (h host) New(n spec.Network, o datapath.Options) (datapath.Backend, error) {
	return h.Host.New(n, stack.Options{Log: o.Log, EndpointDown: o.EndpointDown})
}

// descriptorLimit is how many files the process may have open, 0 when that is unknown.
func descriptorLimit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(l.Cur, 1<<30))
}

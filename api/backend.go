package api

import (
	"context"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
)

// Backend is what the API shows. Its errors are *fault.Error with the texts of Docker; another is
// status 500. A ref is an id, a name, or the beginning of an id, in this order; it comes from outside and is any
// text. What a Backend returns is the caller's to change.
type Backend interface {
	// Networks returns all of them, by name. Which containers are in none and host only Network says: they would have to be
	// looked for, and lists do not show them.
	Networks(ctx context.Context) ([]network.Inspect, error)
	Network(ctx context.Context, ref string) (network.Inspect, error)
	NetworkCreate(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error)
	NetworkRemove(ctx context.Context, ref string) error
	NetworkConnect(ctx context.Context, ref string, r network.ConnectRequest) error
	NetworkDisconnect(ctx context.Context, ref string, r network.DisconnectRequest) error
	// NetworkPrune removes the Networks that match and that nothing uses, and returns their names. While it does, another
	// is a conflict.
	NetworkPrune(ctx context.Context, match func(network.Inspect) bool) ([]string, error)

	// Containers returns those that run or are about to, the newest first.
	Containers(ctx context.Context) ([]container.Summary, error)
	Container(ctx context.Context, ref string) (container.InspectResponse, error)
	// ContainerKill sends a signal; with SIGKILL it returns when the container is gone.
	ContainerKill(ctx context.Context, ref string, sig syscall.Signal) error
	// ContainerStop sends sig and SIGKILL after timeout, and returns when the container is gone. A negative
	// timeout never comes.
	ContainerStop(ctx context.Context, ref string, sig syscall.Signal, timeout time.Duration) error
	// ContainerRemove ends a container that runs if force is set, and refuses it otherwise.
	ContainerRemove(ctx context.Context, ref string, force bool) error

	// Events returns the events that are kept, oldest first, and those to come. live is closed after cancel, or
	// when the reader is too slow for it.
	Events() (past []events.Message, live <-chan events.Message, cancel func())

	Info(ctx context.Context) (system.Info, error)
	// Version has no API versions; the server knows them.
	Version(ctx context.Context) (system.VersionResponse, error)
}

package session

import (
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
)

// PublishSockets forwards sockets that somebody else has made, such as those of Reverse Specs; see
// control.Private.
func (s *Session) PublishSockets(ls []portfwd.Listener) error { return s.private.PublishSockets(ls) }

// Opened is what Open returns: the Network of a sandbox, whose ports can be changed. See control.Private.
type Opened struct {
	shim.Network
	private *control.Private
}

// Publish binds what specs ask for and forwards it.
func (o *Opened) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	return o.private.Publish(specs)
}

// PublishSockets forwards sockets that somebody else has made.
func (o *Opened) PublishSockets(ls []portfwd.Listener) error { return o.private.PublishSockets(ls) }

// Unpublish ends ports.
func (o *Opened) Unpublish(specs []portfwd.Spec) error { return o.private.Unpublish(specs) }

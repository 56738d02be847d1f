package session

import "github.com/usernet/usernet/portfwd"

// PublishSockets forwards sockets that somebody else has made, such as those of Reverse Specs; see
// control.Private.
func (s *Session) PublishSockets(ls []portfwd.Listener) error { return s.private.PublishSockets(ls) }

package datapath

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// ProtocolVersion is what both sides must speak. They are one binary, so it differs only when
// control outlives a replaced binary.
const ProtocolVersion = 1

// MaxMessage bounds a message in bytes. The largest ones are a DNS configuration with its hosts and
// an Endpoint with its names; 64 KiB hold about a thousand entries, and the kernel's default
// socket buffer holds three such messages.
const MaxMessage = 64 << 10

// kind says what a message asks for or tells.
type kind string

const (
	kindHello       kind = "hello"
	kindConfigure   kind = "configure"
	kindAttach      kind = "attach" // with the TAP
	kindDetach      kind = "detach"
	kindPublish     kind = "publish" // with the listener
	kindUnpublish   kind = "unpublish"
	kindDNS         kind = "dns"
	kindCapture     kind = "capture" // with the file
	kindHostChanged kind = "host-changed"
	kindStats       kind = "stats"
	kindShutdown    kind = "shutdown"

	kindReply kind = "reply" // upward, with the id of its request
	kindEvent kind = "event" // upward, id 0
)

// message is what travels. A reply carries either an error or a body.
type message struct {
	ID    uint64          `json:"id,omitempty"`
	Kind  kind            `json:"kind"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error string          `json:"error,omitempty"`
}

// Hello is the datapath's answer to the first request.
type Hello struct {
	Version int            `json:"version"`
	Confine confine.Report `json:"confine"`
}

// helloRequest is control's side of it.
type helloRequest struct {
	Version int `json:"version"`
}

type attachRequest struct {
	Endpoint spec.Endpoint `json:"endpoint"`
	TAP      tap.Info      `json:"tap"`
}

type publishRequest struct {
	ID       string       `json:"id"`
	Spec     portfwd.Spec `json:"spec"`
	Endpoint string       `json:"endpoint"`
}

type captureRequest struct {
	More bool `json:"more,omitempty"`
}

type idRequest struct {
	ID string `json:"id"`
}

// EventKind names something that happened in the datapath without being asked for.
type EventKind string

// EventEndpointDown says that the TAP of the Endpoint ID is gone.
const EventEndpointDown EventKind = "endpoint-down"

// Event is one asynchronous message from the datapath.
type Event struct {
	Kind  EventKind `json:"kind"`
	ID    string    `json:"id,omitempty"`
	Cause string    `json:"cause,omitempty"`
}

// encode turns a message into bytes that fit one datagram of the socket.
func encode(m message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s message: %w", m.Kind, err)
	}
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("encode %s message: %d bytes, at most %d", m.Kind, len(b), MaxMessage)
	}
	return b, nil
}

var errNoKind = errors.New("decode message: no kind")

// decode reads one message. Unknown fields are ignored, an unknown kind is the receiver's business.
func decode(b []byte) (message, error) {
	var m message
	if len(b) > MaxMessage {
		return message{}, fmt.Errorf("decode message: %d bytes, at most %d", len(b), MaxMessage)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, fmt.Errorf("decode message: %w", err)
	}
	if m.Kind == "" {
		return message{}, errNoKind
	}
	return m, nil
}

package datapath

import (
	"encoding/json"
	"net/netip"

	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// ProtocolVersion is what both sides must speak. They are one binary, so it differs only when
// control outlives a replaced binary.
const ProtocolVersion = 4

// MaxMessage bounds a message in bytes. The largest ones are a Network with its extra hosts and an
// Endpoint with its names; 64 KiB hold about a thousand of either, and the kernel's default socket
// buffer holds three such messages. No message grows with the number of Networks or Endpoints.
const MaxMessage = wire.DefaultMaxMessage

// maxPrefixes is how many prefixes one message reserves; the longest takes 46 bytes.
const maxPrefixes = 1024

// kind says what a message asks for or tells.
type kind string

const (
	kindHello         kind = "hello"
	kindReserve       kind = "reserve"
	kindRelease       kind = "release"
	kindUpstreams     kind = "upstreams"
	kindHostChanged   kind = "host-changed"
	kindShutdown      kind = "shutdown"
	kindAddNetwork    kind = "add-network"
	kindRemoveNetwork kind = "remove-network"
	kindAttach        kind = "attach" // with the TAP
	kindUpdate        kind = "update"
	kindDetach        kind = "detach"
	kindPublish       kind = "publish" // with the listener
	kindUnpublish     kind = "unpublish"
	kindSocket        kind = "socket"  // with the socket
	kindCapture       kind = "capture" // with the file
	kindStats         kind = "stats"
	kindInventory     kind = "inventory"

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
	Version int `json:"version"`
	// Build tells its binary from others; see build.
	Build   string         `json:"build"`
	Confine confine.Report `json:"confine"`
}

// helloRequest is control's side of it.
type helloRequest struct {
	Version int `json:"version"`
}

type prefixesRequest struct {
	Prefixes []netip.Prefix `json:"prefixes"`
}

type upstreamsRequest struct {
	Servers []netip.AddrPort `json:"servers"`
}

type addNetworkRequest struct {
	Network spec.Network            `json:"network"`
	Hosts   map[string][]netip.Addr `json:"hosts,omitempty"`
}

type networkRequest struct {
	Network string `json:"network"`
}

type attachRequest struct {
	Network  string        `json:"network"`
	Endpoint spec.Endpoint `json:"endpoint"`
	TAP      tap.Info      `json:"tap"`
}

type updateRequest struct {
	Network  string        `json:"network"`
	Endpoint spec.Endpoint `json:"endpoint"`
}

type publishRequest struct {
	Network  string       `json:"network"`
	ID       string       `json:"id"`
	Spec     portfwd.Spec `json:"spec"`
	Endpoint string       `json:"endpoint"`
}

// inventoryRequest asks for what is held, from the entry After on. What is held must not change between the
// requests for its parts.
type inventoryRequest struct {
	After int `json:"after"`
}

// inventoryReply is one part of it.
type inventoryReply struct {
	Held []entry `json:"held"`
	More bool    `json:"more,omitempty"`
}

type captureRequest struct {
	Network string `json:"network"`
	More    bool   `json:"more,omitempty"`
}

// idRequest is about an Endpoint or a published port.
type idRequest struct {
	Network string `json:"network"`
	ID      string `json:"id"`
}

// EventKind names something that happened in the datapath without being asked for.
type EventKind string

// EventEndpointDown says that the TAP of the Endpoint ID is gone.
const EventEndpointDown EventKind = "endpoint-down"

// Event is one asynchronous message from the datapath.
type Event struct {
	Kind    EventKind `json:"kind"`
	Network string    `json:"network,omitempty"`
	ID      string    `json:"id,omitempty"`
	Cause   string    `json:"cause,omitempty"`
}

package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// Version is what both sides must speak. They are one binary, so it differs only when a sandbox outlives a
// replaced binary.
const Version = 1

const (
	// maxBody bounds a body: 16384 published ports and a command line of 2 MiB fit.
	maxBody = 8 << 20
	// maxInline is what travels in the message itself.
	maxInline = 32 << 10
	// filesPerMessage bounds the sockets in one message; the kernel bounds what one user has under way.
	filesPerMessage = 32
	// maxSockets bounds the sockets of one sandbox: two --publish of the largest range in both families.
	maxSockets = 2 * portfwd.MaxRange
	// maxFailure bounds the text of an error.
	maxFailure = 8 << 10
	// sendTimeout is how long the other side may leave no room for a message.
	sendTimeout = 10 * time.Second
	// requestTimeout bounds a request whose context has no end of its own.
	requestTimeout = 10 * time.Second
	// maxQueue bounds the requests that wait to be handled.
	maxQueue = 64
)

// kind says what a message asks for or tells.
type kind string

const (
	// Of the shim.
	kindJoin      kind = "join"
	kindKept      kind = "kept" // with sockets
	kindRejoin    kind = "rejoin"
	kindAttach    kind = "attach" // with the TAP
	kindStarted   kind = "started"
	kindPublish   kind = "publish"
	kindUnpublish kind = "unpublish"
	kindPorts     kind = "ports"
	kindStats     kind = "stats"
	kindLeave     kind = "leave"

	// Of the daemon.
	kindPlug    kind = "plug" // answered with the TAP
	kindUnplug  kind = "unplug"
	kindRoutes  kind = "routes"
	kindFiles   kind = "files"
	kindKeep    kind = "keep"    // with sockets
	kindGoodbye kind = "goodbye" // not answered

	// Of both.
	kindReply kind = "reply" // with the number of its request
)

// message is what travels. Number 0 is a request that is not answered. With Large set the body is in the
// first file that came along.
type message struct {
	ID    uint64          `json:"id,omitempty"`
	Kind  kind            `json:"kind"`
	Large bool            `json:"large,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error *failure        `json:"error,omitempty"`
}

// The bodies.
type (
	joinBody struct {
		Version int               `json:"version"`
		Config  cnm.SandboxConfig `json:"config"`
	}
	joinedBody struct {
		Joined cnm.Joined           `json:"joined"`
		Legs   []cnm.RejoinEndpoint `json:"legs"` // one for each Link
	}
	rejoinBody struct {
		Version int               `json:"version"`
		Config  cnm.SandboxConfig `json:"config"`
		Rejoin  cnm.Rejoin        `json:"rejoin"`
	}
	attachBody struct {
		Endpoint string   `json:"endpoint"`
		Info     tap.Info `json:"info"`
	}
	// socketsBody goes with as many sockets. First begins a new set, last ends it.
	socketsBody struct {
		Ports []portfwd.Spec `json:"ports"`
		First bool           `json:"first,omitempty"`
		Last  bool           `json:"last,omitempty"`
	}
	pidBody     struct{ PID int }
	portsBody   struct{ Ports []portfwd.Spec }
	idBody      struct{ Endpoint string }
	filesBody   struct{ Files []plumb.File }
	pluggedBody struct {
		Info tap.Info `json:"info"`
	}
	goodbyeBody struct{ Reason string }
)

// failure is an error on its way. Kind and Errno survive; callers make status codes of them.
type failure struct {
	Message string        `json:"message"`
	Kind    fault.Kind    `json:"kind,omitempty"`
	Errno   syscall.Errno `json:"errno,omitempty"`
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Message: err.Error(), Kind: fault.KindOf(err)}
	f.Message = f.Message[:min(len(f.Message), maxFailure)]
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = no
	}
	return f
}

// RefusedError is the other side's own refusal: it answered, and the connection is well. It wraps a
// *fault.Error, and a syscall.Errno where there was one.
type RefusedError struct {
	message string
	causes  []error
}

func (e *RefusedError) Error() string { return e.message }

// Unwrap returns the causes.
func (e *RefusedError) Unwrap() []error { return e.causes }

func (f *failure) error() error {
	e := &RefusedError{message: f.Message, causes: []error{&fault.Error{Kind: f.Kind, Err: errors.New(f.Message)}}}
	if f.Errno != 0 {
		e.causes = append(e.causes, f.Errno)
	}
	return e
}

// body decodes what a message carries. A missing body is the zero value.
func body[T any](m message) (T, error) {
	var v T
	if len(m.Body) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(m.Body, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", m.Kind, err)
	}
	return v, nil
}

// checkVersion refuses the other side's protocol.
func checkVersion(v int) error {
	if v == Version {
		return nil
	}
	return fault.New(fault.Unavailable, "join the daemon: it speaks version %d and the sandbox version %d; end the daemon, and the next command starts one of the installed version", Version, v)
}

// checkSockets refuses a message whose sockets do not fit its ports.
func checkSockets(b socketsBody, files int) error {
	if len(b.Ports) != files {
		return fmt.Errorf("take sockets: %d came for %d ports; raise the limit of open files", files, len(b.Ports))
	}
	return nil
}

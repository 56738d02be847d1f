package slirp4netns

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/portfwd"
)

// The language of the API socket: one JSON object, answered by one.
//
// The texts of the errors are the original's. Unlike its parser, keys are compared exactly and what has the wrong type
// is an error of that argument, but for "execute" and arguments that are not given.

// hostfwd is one forwarded port as the API speaks of it.
type hostfwd struct {
	ID        int        `json:"id"`
	Proto     string     `json:"proto"`
	HostAddr  netip.Addr `json:"host_addr"`
	HostPort  uint16     `json:"host_port"`
	GuestAddr netip.Addr `json:"guest_addr"`
	GuestPort uint16     `json:"guest_port"`
}

// spec is what publishes it.
func (f hostfwd) spec() portfwd.Spec {
	return portfwd.Spec{
		Proto: portfwd.Proto(f.Proto), HostIP: f.HostAddr, HostPort: f.HostPort, Port: f.GuestPort, To: f.GuestAddr,
	}
}

// forwarder is what requests are made of.
type forwarder interface {
	add(hostfwd) (id int, err error)
	list() []hostfwd
	remove(id int) error
}

// requestError is an answer; its text follows "bad request: ".
type requestError string

func (e requestError) Error() string { return "bad request: " + string(e) }

// failure is a request that was understood and could not be carried out.
type failure struct {
	requestError
	cause error
}

// errUnknownID is what remove returns for an id that nobody has.
var errUnknownID = errors.New("unknown id")

const (
	errNotJSON  requestError = "cannot parse JSON"
	errTooLarge requestError = "too large message"
)

// parseRequest reads the first JSON value of b; done is false when it may go on behind b. As in the original
// what comes after it does not matter.
func parseRequest(b []byte) (value json.RawMessage, done bool, err error) {
	err = json.NewDecoder(bytes.NewReader(b)).Decode(&value)
	switch {
	case err == nil:
		return value, true, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, false, errNotJSON
	}
	return nil, true, errNotJSON
}

// answer carries out a request and returns what to say.
func answer(value json.RawMessage, f forwarder, guest netip.Addr) any {
	v, err := execute(value, f, guest)
	if err != nil {
		return answerError(err)
	}
	return v
}

// answerError has the original's text in "desc". What went wrong behind it, which the original does not tell, is
// beside it, where podman and rootlesskit show it too.
func answerError(err error) any {
	e := map[string]string{"desc": err.Error()}
	if f, ok := errors.AsType[*failure](err); ok {
		e["cause"] = f.cause.Error()
	}
	return map[string]any{"error": e}
}

func execute(value json.RawMessage, f forwarder, guest netip.Addr) (any, error) {
	var o map[string]json.RawMessage
	if json.Unmarshal(value, &o) != nil || o == nil {
		return nil, requestError("json_object() failed")
	}
	what, given := text(o["execute"])
	if !given {
		return nil, requestError("no execute found")
	}
	var args map[string]json.RawMessage
	// Arguments of another type are none, which each request reports by the first that it misses.
	_ = json.Unmarshal(o["arguments"], &args)
	switch what {
	case "add_hostfwd":
		return addHostfwd(args, f, guest)
	case "list_hostfwd":
		entries := f.list()
		if entries == nil {
			entries = []hostfwd{}
		}
		// The manual has the entries in "return"; every release has sent them beside it.
		return map[string]any{"return": map[string]any{"entries": entries}, "entries": entries}, nil
	case "remove_hostfwd":
		return removeHostfwd(args, f)
	}
	return nil, requestError("unknown execute")
}

func addHostfwd(args map[string]json.RawMessage, f forwarder, guest netip.Addr) (any, error) {
	bad := func(name string) (any, error) {
		return nil, requestError("add_hostfwd: bad arguments." + name)
	}
	var fwd hostfwd
	var ok bool
	proto, _ := text(args["proto"])
	// rootlesskit has tcp4 and udp4 for the same.
	if fwd.Proto = strings.TrimSuffix(proto, "4"); fwd.Proto != "tcp" && fwd.Proto != "udp" {
		return bad("proto")
	}
	if fwd.HostAddr, ok = addr(args["host_addr"], netip.IPv4Unspecified()); !ok {
		return bad("host_addr")
	}
	if fwd.HostPort, ok = port(args["host_port"]); !ok {
		return bad("host_port")
	}
	if fwd.GuestAddr, ok = addr(args["guest_addr"], guest); !ok || fwd.GuestAddr.IsUnspecified() {
		return bad("guest_addr")
	}
	if fwd.GuestPort, ok = port(args["guest_port"]); !ok {
		return bad("guest_port")
	}
	id, err := f.add(fwd)
	if err != nil {
		return nil, &failure{requestError("add_hostfwd: slirp_add_hostfwd failed"), err}
	}
	return map[string]any{"return": map[string]int{"id": id}}, nil
}

func removeHostfwd(args map[string]json.RawMessage, f forwarder) (any, error) {
	id, ok := number64(args["id"])
	if !ok || id < 1 || id > math.MaxInt32 {
		return nil, requestError("remove_hostfwd: bad arguments.id")
	}
	err := f.remove(int(id))
	if errors.Is(err, errUnknownID) {
		return nil, requestError("remove_hostfwd: bad arguments.id")
	}
	if err != nil {
		return nil, &failure{requestError("remove_hostfwd: slirp_remove_hostfwd failed"), err}
	}
	return map[string]any{"return": struct{}{}}, nil
}

// text reads a string; what is none, or null, is not given.
func text(raw json.RawMessage) (s string, given bool) {
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// addr reads an address; without one, or with an empty one, it is otherwise.
func addr(raw json.RawMessage, otherwise netip.Addr) (netip.Addr, bool) {
	if len(raw) == 0 || string(raw) == "null" || string(raw) == `""` {
		return otherwise, true
	}
	s, given := text(raw)
	a, err := netip.ParseAddr(s)
	return a, given && err == nil && !a.Is4In6() && a.Zone() == "" && !a.IsMulticast()
}

// port reads a number of 1 to 65535; as in the original a fraction is cut off.
func port(raw json.RawMessage) (uint16, bool) {
	n, ok := number64(raw)
	return uint16(n), ok && n >= 1 && n < 1<<16
}

func number64(raw json.RawMessage) (n float64, ok bool) {
	if len(raw) == 0 || string(raw) == "null" || json.Unmarshal(raw, &n) != nil {
		return 0, false
	}
	return math.Trunc(n), true
}

package registry

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Entry is what does not change of a sandbox while it runs.
type Entry struct {
	// ID is 64 hexadecimal digits; see NewID.
	ID string `json:"id"`
	// Name is the one it was given, or ShortID of its ID.
	Name string `json:"name"`
	// Kind is the command that made it, run or attach.
	Kind string `json:"kind"`
	// Mode is its network in Docker's words: private, none, host, container:ID, or the name of its primary Network.
	Mode string `json:"mode"`
	// Networks are the names of those it joined when it started; what it is in now, the daemon knows.
	Networks []string `json:"networks,omitempty"`
	// ShimPID is the process that keeps it, PID one inside its namespaces, both as the host numbers them.
	ShimPID int `json:"shim_pid"`
	PID     int `json:"pid"`
	// Addrs are its addresses in a private Network, or in the ones it joined when it started.
	Addrs    []netip.Addr      `json:"addrs,omitempty"`
	Hostname string            `json:"hostname,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Created  time.Time         `json:"created"`
	Command  []string          `json:"command,omitempty"`
}

// Joined reports whether the sandbox is in Networks of the daemon.
func (e Entry) Joined() bool { return len(e.Networks) > 0 }

// Errors of finding and naming.
var (
	ErrNotFound  = errors.New("no such sandbox")
	ErrExists    = errors.New("the name is in use")
	ErrAmbiguous = errors.New("several sandboxes have ids that begin so")
)

const (
	idDigits    = 64
	shortDigits = 12
)

// NewID returns a random id. Its short form is not a decimal number, so that nobody takes it for a
// process id.
func NewID() string {
	var b [idDigits / 2]byte
	for {
		rand.Read(b[:]) // never fails
		id := hex.EncodeToString(b[:])
		if strings.Trim(ShortID(id), "0123456789") != "" {
			return id
		}
	}
}

// ShortID is how people are shown an id: its first twelve digits.
func ShortID(id string) string { return id[:min(len(id), shortDigits)] }

const maxName = 64

// CheckName refuses what cannot be the name of a sandbox: 1 to 64 letters, digits, '_', '.' and '-', the
// first a letter or digit, as Docker names containers.
func CheckName(name string) error {
	ok := len(name) > 0 && len(name) <= maxName
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = alnum || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return fmt.Errorf("name %q: use 1 to %d letters, digits, '_', '.' and '-', beginning with a letter or digit", name, maxName)
	}
	return nil
}

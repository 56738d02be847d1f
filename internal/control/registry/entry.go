package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Entry is what does not change of a sandbox while it runs.
type Entry struct {
	// ID is its name, or a random one when it was not given any.
	ID string `json:"id"`
	// Kind is the command that made it, run or attach.
	Kind string `json:"kind"`
	// ShimPID is the process that keeps it, PID one inside its namespaces, both as the host numbers them.
	ShimPID int `json:"shim_pid"`
	PID     int `json:"pid"`
	// Addrs are its addresses in its Network.
	Addrs   []netip.Addr `json:"addrs,omitempty"`
	Created time.Time    `json:"created"`
	Command []string     `json:"command,omitempty"`
}

// Errors of finding and naming.
var (
	ErrNotFound = errors.New("no such sandbox")
	ErrExists   = errors.New("the name is in use")
)

const maxID = 64

// CheckID refuses what cannot be the name of a sandbox: 1 to 64 letters, digits, '_', '.' and '-', the
// first a letter or digit, as Docker names containers.
func CheckID(id string) error {
	ok := len(id) > 0 && len(id) <= maxID
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = alnum || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return fmt.Errorf("name %q: use 1 to %d letters, digits, '_', '.' and '-', beginning with a letter or digit", id, maxID)
	}
	return nil
}

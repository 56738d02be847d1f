package tap

import (
	"os"

	"github.com/usernet/usernet/stack/l2"
)

// Modes of older kernels, for tests.
var modes = map[string]mode{
	"Best":       bestMode,
	"NoUSO":      {offloads: []uint32{offloadTSO}},
	"NoOffloads": {},
	"Plain":      {plain: true},
	// A bit no kernel knows: each step falls back to the next.
	"Refused": {offloads: []uint32{1 << 30, 1<<30 | offloadTSO, offloadTSO}},
}

// CreateMode is Create as on a kernel of that mode.
func CreateMode(name string, mtu int, mac l2.MAC, m string) (*os.File, Info, error) {
	return create(name, mtu, mac, modes[m])
}

// AttachMode is Attach as on a kernel of that mode.
func AttachMode(name, m string) (*os.File, Info, error) { return attachExisting(name, modes[m]) }

var OpenError = openError

const (
	OffloadTSO = offloadTSO
	OffloadAll = offloadTSO | offloadUSO
)

// SetLanes makes Run share its work among as many lanes as f says, whatever P there are. It is called before Run.
func (d *Device) SetLanes(f func() int) { d.lanes = f }

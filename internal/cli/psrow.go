package cli

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// psRow is a sandbox as ps shows it.
type psRow struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Kind        string      `json:"kind"`
	PID         int         `json:"pid"`
	ShimPID     int         `json:"shim_pid"`
	State       string      `json:"state"`
	Status      string      `json:"status"`
	Mode        string      `json:"mode"`
	Networks    words       `json:"networks"`
	Addresses   words       `json:"addresses"`
	Ports       portList    `json:"ports"`
	Command     []string    `json:"command"`
	Created     time.Time   `json:"created"`
	Labels      labelMap    `json:"labels"`
	DatapathPID int         `json:"datapath_pid"`
	Restarts    int         `json:"restarts"`
	Weakened    []string    `json:"weakened,omitempty"`
	Stats       *spec.Stats `json:"stats,omitempty"`

	fullID  string
	noTrunc bool
	now     time.Time
}

// What is a list or a map in JSON is a line of text in a table.
type (
	words    []string
	portList []portfwd.Spec
	labelMap map[string]string
)

func (w words) String() string    { return strings.Join(w, ",") }
func (p portList) String() string { return showPorts(p) }
func (l labelMap) String() string { return showLabels(l) }

// psFormat is the table of ps.
var psFormat = listFormat{
	titles: titles{
		"ID": "ID", "Name": "NAME", "Names": "NAMES", "Kind": "KIND", "PID": "PID", "ShimPID": "SHIM PID", "State": "STATE",
		"Status": "STATUS", "Mode": "MODE", "Networks": "NETWORKS", "Addresses": "ADDRESSES", "Ports": "PORTS",
		"Command": "COMMAND", "CommandLine": "COMMAND", "Created": "CREATED", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
		"Labels": "LABELS", "DatapathPID": "DATAPATH PID", "Restarts": "RESTARTS", "Weakened": "WEAKENED",
		"TCP": "TCP", "UDP": "UDP", "Ping": "PING", "Drops": "DROPS",
	},
	table: "{{.ID}}\t{{.Name}}\t{{.CommandLine}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Networks}}",
	quiet: "{{.ID}}",
	raw:   "id: {{.ID}}\nname: {{.Name}}\ncommand: {{.CommandLine}}\ncreated_at: {{.CreatedAt}}\nstatus: {{.Status}}\nports: {{.Ports}}\nnetworks: {{.Networks}}\n",
	rawID: "id: {{.ID}}",
}

// statsColumns are those of --stats.
const statsColumns = "\t{{.TCP}}\t{{.UDP}}\t{{.Ping}}\t{{.Drops}}"

// newPsRow is what the registry says of a sandbox.
func newPsRow(e registry.Entry, noTrunc bool, now time.Time) psRow {
	r := psRow{
		ID: registry.ShortID(e.ID), Name: e.Name, Kind: e.Kind, PID: e.PID, ShimPID: e.ShimPID, State: "unreachable", Mode: e.Mode,
		Networks: e.Networks, Addresses: addressWords(e.Addrs), Command: e.Command, Created: e.Created, Labels: e.Labels,
		fullID: e.ID, noTrunc: noTrunc, now: now,
	}
	if noTrunc {
		r.ID = e.ID
	}
	if !e.Joined() {
		r.Networks = words{e.Mode}
	}
	r.Status = "Up " + units.HumanDuration(now.Sub(e.Created))
	return r
}

// setNetworks says what networks the sandbox is in now.
func (r *psRow) setNetworks(s container.Summary) {
	if s.NetworkSettings == nil {
		return
	}
	r.Networks = slices.Sorted(maps.Keys(s.NetworkSettings.Networks))
	var addrs []netip.Addr
	for _, name := range r.Networks {
		for _, a := range []netip.Addr{s.NetworkSettings.Networks[name].IPAddress, s.NetworkSettings.Networks[name].GlobalIPv6Address} {
			if a.IsValid() {
				addrs = append(addrs, a)
			}
		}
	}
	r.Addresses = addressWords(addrs)
}

func addressWords(addrs []netip.Addr) (w words) {
	for _, a := range addrs {
		w = append(w, a.String())
	}
	return w
}

// ask completes the row by what the sandbox says itself, if it answers.
func (r *psRow) ask(ctx context.Context, d *registry.Dir, name string, stats bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	l, err := d.Sandbox(ctx, name)
	if err != nil {
		r.Status += " (" + r.State + ")"
		return
	}
	r.State, r.Ports, r.DatapathPID, r.Restarts, r.Weakened = l.State, l.Ports, l.DatapathPID, l.Restarts, l.Weakened
	switch {
	case r.State != "running":
		r.Status += " (" + r.State + ")"
	case r.Restarts > 0:
		r.Status += fmt.Sprintf(" (%s)", count(r.Restarts, "restart"))
	}
	if stats {
		if st, err := d.Stats(ctx, name); err == nil {
			r.Stats = &st
		}
	}
}

// Names is the name, as Docker's templates call it.
func (r psRow) Names() string { return r.Name }

// Label is one label of the sandbox.
func (r psRow) Label(name string) string { return r.Labels[name] }

// CommandLine is the command in one line.
func (r psRow) CommandLine() string {
	line := printable(strings.Join(r.Command, " "))
	if !r.noTrunc {
		line = shorten(line)
	}
	return line
}

// CreatedAt is when the sandbox was made.
func (r psRow) CreatedAt() string { return r.Created.Format("2006-01-02 15:04:05 -0700 MST") }

// RunningFor is how long ago that was.
func (r psRow) RunningFor() string { return ago(r.now.Sub(r.Created)) }

// TCP, UDP and Ping are how many flows there are, Drops what was dropped; - without an answer.
func (r psRow) TCP() string {
	return r.stat(func(s *spec.Stats) string { return fmt.Sprint(s.TCPFlows) })
}

// UDP is the number of UDP flows.
func (r psRow) UDP() string {
	return r.stat(func(s *spec.Stats) string { return fmt.Sprint(s.UDPFlows) })
}

// Ping is the number of ping flows.
func (r psRow) Ping() string {
	return r.stat(func(s *spec.Stats) string { return fmt.Sprint(s.PingFlows) })
}

// Drops are the counters of what was dropped.
func (r psRow) Drops() string {
	return r.stat(func(s *spec.Stats) string { return showDrops(s.Drops) })
}

func (r psRow) stat(show func(*spec.Stats) string) string {
	if r.Stats == nil {
		return "-"
	}
	return show(r.Stats)
}

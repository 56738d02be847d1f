// Package report turns what the bench measured into a table, ratios, floors, JSON and a figure. It measures
// nothing and needs no privileges.
package report

import "slices"

// Measure names one quantity. It is the key in the JSON.
type Measure string

const (
	StreamUp        Measure = "stream_up"
	StreamDown      Measure = "stream_down"
	Streams4Up      Measure = "streams4_up"
	Streams4Down    Measure = "streams4_down"
	Streams16Up     Measure = "streams16_up"
	Streams16Down   Measure = "streams16_down"
	Unfair16Up      Measure = "streams16_up_unfair"
	Unfair16Down    Measure = "streams16_down_unfair"
	RoundTrip       Measure = "round_trip_p50"
	RoundTripP99    Measure = "round_trip_p99"
	RoundTripEarly  Measure = "round_trip_early"
	Connect         Measure = "connect_p50"
	Connects        Measure = "connects"
	UDPTrip         Measure = "udp_trip_p50"
	UDPTripEarly    Measure = "udp_trip_early"
	UDPSmall        Measure = "udp_1_delivered"
	UDPSmallLoss    Measure = "udp_1_lost"
	UDPLarge        Measure = "udp_1400_delivered"
	UDPLargeLoss    Measure = "udp_1400_lost"
	UDPPacedLoss    Measure = "udp_paced_lost"
	PublishedUp     Measure = "published_up"
	PublishedDown   Measure = "published_down"
	FarUp           Measure = "published_far_up"
	FarDown         Measure = "published_far_down"
	PublishedTrip   Measure = "published_trip_p50"
	PublishedDial   Measure = "published_connect_p50"
	CPUUp           Measure = "cpu_up"
	CPUDown         Measure = "cpu_down"
	IdleBytes       Measure = "idle_bytes"
	IdleConnections Measure = "idle_connections"
	IdleBeside      Measure = "idle_beside"
	Wakes           Measure = "idle_wakes"
	Memory          Measure = "memory"
	StartUp         Measure = "start_up"
	StartUpNetwork  Measure = "start_up_network"

	// Of containers on one network.
	Across          Measure = "across_stream"
	Across4         Measure = "across_streams4"
	AcrossTrip      Measure = "across_trip_p50"
	AcrossTripP99   Measure = "across_trip_p99"
	AcrossTripEarly Measure = "across_trip_early"
	AcrossCPU       Measure = "across_cpu"
	LocalNames      Measure = "dns_local"
	LocalNamesP99   Measure = "dns_local_p99"
	PacedNamesP99   Measure = "dns_paced_p99"
	PacedNamesLoss  Measure = "dns_paced_lost"

	// Of how much fits.
	NetworksCreate  Measure = "networks_create"
	NetworksJoin    Measure = "networks_join"
	NetworksMemory  Measure = "networks_memory"
	NetworksMoving  Measure = "networks_memory_datapath"
	NetworksList    Measure = "networks_list_p99"
	NetworksRestart Measure = "networks_restart"
	NetworksLeft    Measure = "networks_left"
	NetworksStay    Measure = "networks_left_datapath"
	CrowdAttach     Measure = "crowd_attach_p99"
	CrowdMemory     Measure = "crowd_memory"
	CrowdMoving     Measure = "crowd_memory_datapath"
)

// Better says which way is up.
type Better bool

const (
	Lower  Better = false
	Higher Better = true
)

// Definition is how a Measure is shown.
type Definition struct {
	Measure Measure
	Title   string
	Unit    string
	Better  Better
	// Ratio: a quotient of two subjects says something.
	Ratio bool
	// Figure: has a panel in the SVG.
	Figure bool
}

// Definitions are in the order of the table. Up is from the container to the host; a published port is
// reached by a client on the host, whose up is towards the container.
var Definitions = []Definition{
	{StreamUp, "TCP stream up", "Gbit/s", Higher, true, true},
	{StreamDown, "TCP stream down", "Gbit/s", Higher, true, true},
	{Streams4Up, "4 TCP streams up", "Gbit/s", Higher, true, true},
	{Streams4Down, "4 TCP streams down", "Gbit/s", Higher, true, true},
	{Streams16Up, "16 TCP streams up", "Gbit/s", Higher, true, false},
	{Unfair16Up, "16 up: the furthest from their mean", "%", Lower, false, false},
	{Streams16Down, "16 TCP streams down", "Gbit/s", Higher, true, false},
	{Unfair16Down, "16 down: the furthest from their mean", "%", Lower, false, false},
	{RoundTrip, "TCP round trip p50", "µs", Lower, true, true},
	{RoundTripP99, "TCP round trip p99", "µs", Lower, true, false},
	{RoundTripEarly, "TCP round trip p50, first 50 ms", "µs", Lower, true, false},
	{Connect, "TCP connect + round trip p50", "µs", Lower, true, true},
	{Connects, "TCP connections, 16 at a time", "1/s", Higher, true, true},
	{UDPTrip, "UDP round trip p50", "µs", Lower, true, true},
	{UDPTripEarly, "UDP round trip p50, first 50 ms", "µs", Lower, true, false},
	{UDPSmall, "UDP 1 B delivered", "k/s", Higher, true, true},
	{UDPSmallLoss, "UDP 1 B lost", "%", Lower, false, false},
	{UDPLarge, "UDP 1400 B delivered", "k/s", Higher, true, true},
	{UDPLargeLoss, "UDP 1400 B lost", "%", Lower, false, false},
	{UDPPacedLoss, "UDP 1400 B at 1 Gbit/s lost", "%", Lower, false, false},
	{PublishedUp, "published port stream up", "Gbit/s", Higher, true, true},
	{PublishedDown, "published port stream down", "Gbit/s", Higher, true, true},
	{FarUp, "the same, client not on loopback, up", "Gbit/s", Higher, true, false},
	{FarDown, "the same, client not on loopback, down", "Gbit/s", Higher, true, false},
	{PublishedTrip, "published port round trip p50", "µs", Lower, true, true},
	{PublishedDial, "published port connect p50", "µs", Lower, true, true},
	{CPUUp, "CPU of the process, stream up", "s/GB", Lower, true, true},
	{CPUDown, "CPU of the process, stream down", "s/GB", Lower, true, true},
	{Memory, "resident memory, no connections", "MiB", Lower, true, false},
	{Wakes, "wake-ups when nothing flows", "1/s", Lower, false, false},
	{IdleBytes, "memory per idle connection", "B", Lower, true, true},
	{IdleBeside, "a stream up beside them, of one alone", "", Higher, false, false},
	{IdleConnections, "idle connections reached", "", Higher, false, false},
	{StartUp, "start-up: run -- true", "ms", Lower, true, true},
	{StartUpNetwork, "start-up with eth0 configured", "ms", Lower, true, true},
}

// NetworkDefinitions are those of two containers on one network, of which one is the server. On loopback and through
// the relay there is no container, and the figure is what the same load reaches there.
var NetworkDefinitions = []Definition{
	{Across, "TCP stream, container to container", "Gbit/s", Higher, true, true},
	{Across4, "4 TCP streams", "Gbit/s", Higher, true, true},
	{AcrossTrip, "TCP round trip p50", "µs", Lower, true, true},
	{AcrossTripP99, "TCP round trip p99", "µs", Lower, true, false},
	{AcrossTripEarly, "TCP round trip p50, first 50 ms", "µs", Lower, true, false},
	{AcrossCPU, "CPU of the process, TCP stream", "s/GB", Lower, true, false},
	{LocalNames, "local names, 50 clients", "k/s", Higher, true, true},
	{LocalNamesP99, "local names, 50 clients, p99", "ms", Lower, true, false},
	{PacedNamesP99, "local names at 5000 a second, p99", "ms", Lower, true, false},
	{PacedNamesLoss, "local names at 5000 a second, lost", "%", Lower, false, false},
}

// Sizes of the crowds in ScaleDefinitions.
const (
	Networks          = 1000
	NetworkContainers = 2 // in each of Networks
	Crowd             = 2000
)

// ScaleDefinitions are usernet's alone, with containers whose TAPs are simulated. Memory is what daemon and datapath
// hold together, beyond what they hold without any.
var ScaleDefinitions = []Definition{
	{NetworksCreate, "1000 networks: create", "s", Lower, false, false},
	{NetworksJoin, "1000 networks: 2 containers join each", "s", Lower, false, false},
	{NetworksMemory, "1000 networks: memory, with the containers", "MiB", Lower, false, false},
	{NetworksMoving, "1000 networks: of that, in the datapath", "MiB", Lower, false, false},
	{NetworksList, "1000 networks: list p99", "ms", Lower, false, false},
	{NetworksRestart, "1000 networks: daemon killed, containers back", "s", Lower, false, false},
	{NetworksLeft, "1000 networks: memory when all are gone", "MiB", Lower, false, false},
	{NetworksStay, "1000 networks: of that, in the datapath", "MiB", Lower, false, false},
	{CrowdAttach, "2000 containers on one network: attach p99", "ms", Lower, false, false},
	{CrowdMemory, "2000 containers on one network: memory", "MiB", Lower, false, false},
	{CrowdMoving, "2000 containers: of that, in the datapath", "MiB", Lower, false, false},
}

func definition(m Measure) Definition {
	for _, d := range slices.Concat(Definitions, NetworkDefinitions, ScaleDefinitions) {
		if d.Measure == m {
			return d
		}
	}
	return Definition{Measure: m, Title: string(m)}
}

// Subject is what was measured.
type Subject string

const (
	Kernel    Subject = "loopback"
	Relay     Subject = "relay"
	Usernet   Subject = "usernet"
	Slirp     Subject = "slirp4netns"
	Pasta     Subject = "pasta"
	GvisorTap Subject = "gvisor-tap-vsock" // of rootlesskit
	Podman    Subject = "podman"           // its own rootless bridge, with its name server
)

// A container of podman 4 or 5 with the network program of the distribution, and with usernet in its place.
const (
	PodmanSlirp   Subject = "podman with slirp4netns"
	PodmanAsSlirp Subject = "podman with usernet as slirp4netns"
	PodmanPasta   Subject = "podman with pasta"
	PodmanAsPasta Subject = "podman with usernet as pasta"
)

// PodmanMTU is what podman asks these for.
const PodmanMTU = largeMTU

// podmanMeasures are those of the table of these.
var podmanMeasures = []Measure{StreamUp, StreamDown, RoundTrip, RoundTripP99, Connect}

// Subjects are in the order of the table's columns.
var Subjects = []Subject{Kernel, Relay, Usernet, Slirp, Pasta, GvisorTap, Podman}

var peers = []Subject{Slirp, Pasta, GvisorTap, Podman}

// HasMTU tells whether s has an interface of its own, whose MTU matters.
func (s Subject) HasMTU() bool { return s != Kernel && s != Relay }

package instructions

// row is a benchmark and what it cost.
type row struct {
	what   string
	pkg    string // in which it is, from the root of the module
	bench  string // for -test.bench
	inside string // NAME=VALUE, by which the test program knows that it has namespaces of its own; empty: it needs none
	n      int    // iterations that take some tenths of a second under valgrind
	units  int    // packets, or whatever unit is, in an iteration
	unit   string
	cost   int     // instructions for a unit, as counted with Go 1.26
	slack  float64 // how many times as many it may be
}

// How many times its cost a unit may take.
const (
	steady  = 1.10 // what stays in memory
	sockets = 1.20 // what waits for others: how often it has to is up to the schedulers
	streams = 1.50 // and where they also decide how much is moved at once
)

const (
	natInside   = "USERNET_NAT_TEST_NAMESPACE=1"
	readInside  = "USERNET_TEST_INSIDE=BenchmarkKernelRead"
	writeInside = "USERNET_TEST_INSIDE=BenchmarkKernelWrite"
)

var rows = []row{
	{"read the TAP", "tap", "^BenchmarkKernelRead$/^1500$", readInside, 4000, 1, "frame", 2728, sockets},
	{"take what was read", "tap", "^BenchmarkTake$", "", 100000, 1, "frame", 229, steady},
	{"write the TAP", "tap", "^BenchmarkKernelWrite$/^Best$/^1500$", writeInside, 10000, 1, "frame", 650, sockets},
	{"switch, strict port", "stack/bridge", "^BenchmarkForward$/^strict$", "", 1000, 32, "frame", 774, steady},
	{"switch, guest's port", "stack/bridge", "^BenchmarkForward$/^guest$", "", 1000, 32, "frame", 1254, steady},
	{"find a MAC address", "stack/fdb", "^BenchmarkFind$", "", 100000, 1, "frame", 195, steady},
	{"parse IPv4", "stack/ip", "^BenchmarkParse4$", "", 50000, 1, "packet", 355, steady},
	{"parse IPv6", "stack/ip", "^BenchmarkParse6$", "", 50000, 1, "packet", 279, steady},
	{"reassemble 6 fragments", "stack/ip", "^BenchmarkReassemble8000$", "", 3000, 1, "packet", 8684, steady},
	{"checksum of 1480 bytes", "stack/ip", "^BenchmarkSum$/^1480$", "", 20000, 1, "packet", 740, steady},
	{"cut 64 KiB, IPv4", "stack/gso", "^BenchmarkSplit$/^TCP,v6=false$", "", 500, 45, "segment", 1513, steady},
	{"cut 64 KiB, IPv6", "stack/gso", "^BenchmarkSplit$/^TCP,v6=true$", "", 500, 45, "segment", 1413, steady},
	{"checksum while cutting", "stack/gso", "^BenchmarkSum$/^1500$", "", 20000, 1, "segment", 813, steady},
	{"find a UDP flow", "stack/nat", "^BenchmarkFlowTable$/^batch1$", natInside, 10000, 1, "datagram", 806, sockets},
	{"UDP out and back, one at a time", "stack/nat", "^BenchmarkUDPEcho$/^1B$/^window1$", natInside, 1000, 1, "datagram", 10729, sockets},
	{"UDP out and back, 32 at a time", "stack/nat", "^BenchmarkUDPEcho$/^1400B$/^window32$", natInside, 3200, 1, "datagram", 1511, sockets},
	{"ping out and back", "stack/nat", "^BenchmarkPing$/^56B$", natInside, 1000, 1, "packet", 6772, sockets},
	{"find a published port's flow", "portfwd", "^BenchmarkFlowLookup$", "", 50000, 1, "datagram", 648, steady},
	{"TCP up", "stack/gateway", "^BenchmarkRelay$/^up$", "", 500, 60, "KiB", 612, streams},
	{"TCP down", "stack/gateway", "^BenchmarkRelay$/^down$", "", 500, 60, "KiB", 658, streams},
	{"TCP, a byte out and back", "stack/gateway", "^BenchmarkRoundTrip$", "", 500, 1, "round trip", 60500, sockets},
	{"TCP, connect, a byte out and back, close", "stack/gateway", "^BenchmarkConnect$", "", 200, 1, "connection", 284000, sockets},
	{"ACKs of one batch", "stack/gateway", "^BenchmarkThinACKs$", "", 1000, 64, "ACK", 301, steady},
	{"local name", "dnsproxy", "^BenchmarkLocal$", "", 2000, 1, "question", 6658, steady},
	{"name asked of an upstream", "dnsproxy", "^BenchmarkForward$", "", 300, 1, "question", 68579, sockets},
}

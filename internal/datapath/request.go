package datapath

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Request is one thing to ask of a datapath that is answered with yes or no. It borrows its file
// until then. Requests are values, so that what is asked of a running process and what is told a new one
// is written once.
type Request struct {
	kind kind
	body any
	file *os.File
	what string // for people: the Network and what of it
}

// String names the request as in "attach web/4f2c".
func (r Request) String() string { return strings.TrimSpace(string(r.kind) + " " + r.what) }

// Reserve says that prefixes belong to Networks. As many Requests as it takes: there may be
// more prefixes than a message holds.
func Reserve(prefixes []netip.Prefix) []Request { return prefixRequests(kindReserve, prefixes) }

// Release takes back Reserve.
func Release(prefixes []netip.Prefix) []Request { return prefixRequests(kindRelease, prefixes) }

func prefixRequests(k kind, prefixes []netip.Prefix) (rs []Request) {
	for part := range slices.Chunk(prefixes, maxPrefixes) {
		rs = append(rs, Request{kind: k, body: prefixesRequest{part}})
	}
	return rs
}

// SetUpstreams replaces the host's resolvers, for all Networks.
func SetUpstreams(servers []netip.AddrPort) Request {
	return Request{kind: kindUpstreams, body: upstreamsRequest{servers}}
}

// HostChanged tells that addresses or routes of the host are not what they were.
func HostChanged() Request { return Request{kind: kindHostChanged} }

// AddNetwork makes a Network whose DNS knows hosts beside the names of Endpoints.
func AddNetwork(n spec.Network, hosts map[string][]netip.Addr) Request {
	return Request{kind: kindAddNetwork, body: addNetworkRequest{n, hosts}, what: n.ID}
}

// RemoveNetwork ends a Network and resets its flows.
func RemoveNetwork(id string) Request {
	return Request{kind: kindRemoveNetwork, body: networkRequest{id}, what: id}
}

// Attach gives the datapath a duplicate of the TAP; tapFile stays the caller's.
func Attach(network string, ep spec.Endpoint, tapFile *os.File, info tap.Info) Request {
	return Request{kind: kindAttach, body: attachRequest{network, ep, info}, file: tapFile, what: network + "/" + ep.ID}
}

// Update changes Names, Resolver and Accept of an Endpoint.
func Update(network string, ep spec.Endpoint) Request {
	return Request{kind: kindUpdate, body: updateRequest{network, ep}, what: network + "/" + ep.ID}
}

// Detach takes an Endpoint away.
func Detach(network, endpoint string) Request {
	return Request{kind: kindDetach, body: idRequest{network, endpoint}, what: network + "/" + endpoint}
}

// Publish gives the datapath a duplicate of the bound socket f, which stays the caller's. id names the
// port in its Network.
func Publish(network, id string, s portfwd.Spec, f *os.File, endpoint string) Request {
	return Request{kind: kindPublish, body: publishRequest{network, id, s, endpoint}, file: f, what: network + "/" + id}
}

// Unpublish ends a published port and its flows.
func Unpublish(network, id string) Request {
	return Request{kind: kindUnpublish, body: idRequest{network, id}, what: network + "/" + id}
}

// Socket gives the datapath a duplicate of an unconnected TCP socket of an Endpoint's network namespace, which stays
// the caller's.
func Socket(network, endpoint string, f *os.File) Request {
	return Request{kind: kindSocket, body: idRequest{network, endpoint}, file: f, what: network + "/" + endpoint}
}

// Capture has everything that passes the switch of a Network written to f, which stays the caller's; more says
// that an earlier datapath has begun the file.
func Capture(network string, f *os.File, more bool) Request {
	return Request{kind: kindCapture, body: captureRequest{network, more}, file: f, what: network}
}

package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/stats"
)

// Op is what an agent is asked to do.
type Op string

const (
	Listen     Op = "listen"      // serve on Ports (0: a free one); the reply's Ports are the real ones
	Stream     Op = "stream"      // Streams of TCP to To, Down or up: Rate in bytes/s, Unfair, Total bytes
	RoundTrip  Op = "round-trip"  // of one byte on one connection: P50, P99, Early
	Connect    Op = "connect"     // connect and one round trip, in Streams parallel: P50, P99, Rate per s
	UDPTrip    Op = "udp-trip"    // of one byte: P50, P99, Early, Lost
	Flood      Op = "flood"       // datagrams of Size to To, PerSecond or 0 for as fast as it goes: Total sent, Elapsed
	FloodCount Op = "flood-count" // datagrams that arrived since the last FloodCount: Total
	Names      Op = "names"       // ask To for Name from Streams clients, PerSecond in all or 0 for as fast as it goes: Rate, P50, P99, Lost
	Idle       Op = "idle"        // open Count connections and keep them: Total
	Drop       Op = "drop"        // close the idle connections, of both sides
)

// Request is one line to an agent.
type Request struct {
	ID      int            `json:"id"` // comes back in the Reply
	Op      Op             `json:"op"`
	To      netip.AddrPort `json:"to,omitzero"`
	Ports   Ports          `json:"ports,omitzero"`
	Down    bool           `json:"down,omitempty"`
	Streams int            `json:"streams,omitempty"`
	Size    int            `json:"size,omitempty"` // bytes
	Count   int            `json:"count,omitempty"`
	Name    string         `json:"name,omitempty"`
	Warm    time.Duration  `json:"warm,omitempty"` // of streams and round trips, before Window
	Window  time.Duration  `json:"window,omitempty"`

	PerSecond int `json:"per_second,omitempty"`
}

// Reply is one line from an agent. Which fields count depends on the Op.
type Reply struct {
	ID      int           `json:"id"`
	Error   string        `json:"error,omitempty"`
	Ports   Ports         `json:"ports,omitzero"`
	Rate    float64       `json:"rate,omitempty"`   // a second
	Unfair  float64       `json:"unfair,omitempty"` // of streams: how far one is from their mean, as a part of it
	Total   uint64        `json:"total,omitempty"`  // bytes, datagrams, questions or connections
	Elapsed time.Duration `json:"elapsed,omitempty"`
	P50     float64       `json:"p50,omitempty"`   // microseconds
	P99     float64       `json:"p99,omitempty"`   // microseconds
	Early   float64       `json:"early,omitempty"` // microseconds, the median of the first earlyFor
	Lost    int           `json:"lost,omitempty"`
}

type agent struct {
	server server
	kept   []socket // what Idle opened
}

// processors are the turns that the Go runtime has to give, more than an agent has threads in calls that it was not told of
// (socket.quietly): those of its server, and clients of which there are fewer.
const processors = 2 * serverThreads

// Serve obeys the requests of in until its end.
func Serve(in io.Reader, out io.Writer) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
	var a agent
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q Request
		if err := requests.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		r, err := a.do(q)
		r.ID = q.ID
		if err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return fmt.Errorf("write reply: %w", err)
		}
	}
}

func (a *agent) do(q Request) (r Reply, err error) {
	switch q.Op {
	case Listen:
		r.Ports, err = a.server.listen(q.Ports)
	case Stream:
		r.Rate, r.Unfair, r.Total, err = streams(q.To, q.Down, max(q.Streams, 1), streamHeader{q.Warm, q.Window})
	case RoundTrip:
		var t trips
		t, err = roundTrips(q.To, q.Warm, q.Window)
		r.trips(t)
	case Connect:
		var us []float64
		us, r.Elapsed, err = connects(q.To, max(q.Streams, 1), q.Window)
		r.percentiles(us)
		r.Rate = float64(len(us)) / r.Elapsed.Seconds()
	case UDPTrip:
		var t trips
		t, r.Lost, err = udpRoundTrips(q.To, q.Warm, q.Window)
		r.trips(t)
	case Flood:
		r.Total, r.Elapsed, err = flood(q.To, q.Size, q.PerSecond, q.Window)
	case FloodCount:
		r.Total = a.server.received.Swap(0)
	case Names:
		var n nameAnswers
		n, r.Elapsed, err = nameClients{q.To, q.Name, max(q.Streams, 1), q.PerSecond, q.Window}.ask()
		r.percentiles(n.us)
		r.Lost, r.Total = n.lost, uint64(len(n.us)+n.lost)
		r.Rate = float64(len(n.us)) / max(r.Elapsed, 1).Seconds()
	case Idle:
		a.kept, err = openIdle(q.To, q.Count)
		r.Total = uint64(len(a.kept))
	case Drop:
		for _, c := range a.kept {
			c.close()
		}
		a.kept = nil
		r.Total = uint64(a.server.drop())
	default:
		err = fmt.Errorf("do %q: no such operation", q.Op)
	}
	return r, err
}

func (r *Reply) trips(t trips) {
	r.percentiles(t.us)
	if len(t.early) > 0 {
		r.Early = stats.Median(t.early)
	}
}

// percentiles leaves zeros when there is nothing: JSON has no NaN.
func (r *Reply) percentiles(us []float64) {
	if len(us) > 0 {
		r.P50, r.P99 = stats.Median(us), stats.Quantile(us, 0.99)
	}
}

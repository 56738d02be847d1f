package pasta

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/portfwd"
)

// Rules made into sockets, and kept so.
//
// # Theory of operation
//
// wanted turns the two tables into the Specs that are to be open, given who listens where; sync closes what is open and
// not wanted any more, and opens what is missing. Sockets of the host are bound by control; those of -T and -U are
// made in the namespace, at both of its loopback addresses, and lead to the host's.
//
// A port of a rule that says so (Scan) is wanted while somebody listens to its target on the other side. Both sides
// are looked at once a second, as the original does, and only while there is such a rule. What this process listens to
// itself does not count, or each side would open the other's ports for ever.
//
// "all" is served like "auto": a port is taken on the host once somebody listens to it inside. The original takes all
// 37 000 at once, and resets the connections nobody waits for; here they are refused, and other programs of the host
// can have the ports.

// scanEvery is how often both sides are looked at.
const scanEvery = time.Second

// maxFixed is how many ports may be open because a rule says so and not because somebody listens.
const maxFixed = portfwd.MaxRange

// fixedSpecs are the ports of the host that a table wants whoever listens. They are bound with the Network, so that
// one in use is an error of the start.
func fixedSpecs(in *forward.Table, loopback bool) ([]portfwd.Spec, error) {
	var specs []portfwd.Spec
	for _, r := range in.Rules {
		if follows(r) {
			continue
		}
		if len(specs)+r.Ports() > maxFixed {
			return nil, fmt.Errorf("More than %d ports to forward; add \"auto\" to the specifier for those that are in use only", maxFixed)
		}
		for i := range r.Ports() {
			specs = append(specs, inSpec(r, i, loopback))
		}
	}
	return specs, nil
}

// follows reports whether the ports of a rule depend on who listens.
func follows(r forward.Rule) bool {
	return r.Flags&forward.Scan != 0 || r.Flags&forward.Weak != 0 && !r.To.IsValid()
}

// inSpec is the i-th port of an inbound rule; loopback is --host-lo-to-ns-lo.
func inSpec(r forward.Rule, i int, loopback bool) portfwd.Spec {
	s := portfwd.Spec{
		Proto: proto(r.Proto), HostPort: r.First + uint16(i), Port: r.ToPort + uint16(i), To: r.To, Device: r.Device,
		Loopback: loopback && r.Proto == forward.TCP && !r.To.IsValid(),
	}
	if !r.Any() {
		s.HostIP = r.Addr
	}
	return s
}

// outSpecs are the i-th port of an outbound rule, one for each loopback address it is for.
func outSpecs(r forward.Rule, i int) []portfwd.Spec {
	var specs []portfwd.Spec
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if r.Any() || r.Addr.Is4() == a.Is4() && (r.Addr.IsUnspecified() || r.Addr == a) {
			specs = append(specs, portfwd.Spec{
				Proto: proto(r.Proto), HostIP: a, HostPort: r.First + uint16(i), Port: r.ToPort + uint16(i), Reverse: true,
			})
		}
	}
	return specs
}

func proto(p forward.Proto) portfwd.Proto {
	if p == forward.UDP {
		return portfwd.UDP
	}
	return portfwd.TCP
}

// checkOut refuses outbound rules that have no meaning; only pesto can ask for such.
func checkOut(out *forward.Table) error {
	for _, r := range out.Rules {
		switch {
		case r.To.IsValid():
			return fmt.Errorf("Rule %v: connections from the namespace lead to the host's loopback only", r)
		case len(outSpecs(r, 0)) == 0, r.Device != "" && r.Device != "lo":
			return fmt.Errorf("Rule %v: only the loopback addresses of the namespace can be listened to", r)
		}
	}
	return nil
}

// bindText says in the original's words that a port could not be bound; other errors it leaves alone.
func bindText(err error) error {
	var bind *portfwd.BindError
	var errno syscall.Errno
	if !errors.As(err, &bind) || !errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("Failed to bind port %d (%s) for %s port %s, exiting", bind.Spec.HostPort, strerror(errno),
		strings.ToUpper(string(bind.Spec.Proto)), bind.Spec)
}

// strerror is the text of the C library.
func strerror(e syscall.Errno) string {
	s := e.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

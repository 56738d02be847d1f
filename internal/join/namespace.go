package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// namespace is the sandbox's namespaces as the Controller sees them: each call is a request to the shim.
type namespace struct {
	l *link
	// legs makes of Links what the shim tells the next daemon.
	legs func(links ...plumb.Link) []cnm.RejoinEndpoint
	// keeping keeps the parts of two sets of sockets apart.
	keeping sync.Mutex
}

var _ cnm.Namespace = (*namespace)(nil)

// Plug implements cnm.Namespace. When no answer comes in time the shim is told to take the interface away
// again, which it does after whatever it is doing.
func (n *namespace) Plug(ctx context.Context, l plumb.Link) (*os.File, tap.Info, error) {
	r, err := n.l.call(ctx, kindPlug, n.legs(l)[0])
	if err != nil {
		if _, refused := errors.AsType[*RefusedError](err); !refused && !errors.Is(err, ErrGone) {
			err = errors.Join(err, n.l.notify(kindUnplug, idBody{l.EndpointID}))
		}
		return nil, tap.Info{}, fmt.Errorf("make interface %s: %w", l.Name, err)
	}
	b, err := body[pluggedBody](r.message)
	if err == nil {
		var f *os.File
		if f, err = r.file(); err == nil {
			return f, b.Info, nil
		}
	}
	r.close()
	return nil, tap.Info{}, errors.Join(err, n.l.notify(kindUnplug, idBody{l.EndpointID}))
}

// Unplug implements cnm.Namespace.
func (n *namespace) Unplug(ctx context.Context, endpointID string) error {
	return n.ask(ctx, kindUnplug, idBody{endpointID})
}

// SetRoutes implements cnm.Namespace.
func (n *namespace) SetRoutes(ctx context.Context, r plumb.Routes) error {
	return n.ask(ctx, kindRoutes, r)
}

// SetFiles implements cnm.Namespace.
func (n *namespace) SetFiles(ctx context.Context, files []plumb.File) error {
	return n.ask(ctx, kindFiles, filesBody{files})
}

// Keep implements cnm.Namespace. What the shim had stays until the last part has come.
func (n *namespace) Keep(ctx context.Context, ls []portfwd.Listener) error {
	n.keeping.Lock()
	defer n.keeping.Unlock()
	err := sendSockets(len(ls), func(from, to int) error {
		b := socketsBody{First: from == 0, Last: to == len(ls)}
		var files []*os.File
		for _, l := range ls[from:to] {
			b.Ports = append(b.Ports, l.Spec)
			files = append(files, l.File)
		}
		return n.ask(ctx, kindKeep, b, files...)
	})
	if err != nil {
		return fmt.Errorf("give sockets to the sandbox: %w", err)
	}
	return nil
}

// sendSockets cuts n sockets into messages; none at all is one message too.
func sendSockets(n int, send func(from, to int) error) error {
	for from := 0; from == 0 || from < n; from += filesPerMessage {
		if err := send(from, min(from+filesPerMessage, n)); err != nil {
			return err
		}
	}
	return nil
}

// ask makes a request that is answered by success or an error.
func (n *namespace) ask(ctx context.Context, k kind, v any, files ...*os.File) error {
	r, err := n.l.call(ctx, k, v, files...)
	r.close()
	return err
}

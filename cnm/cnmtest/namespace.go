package cnmtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// Namespace is a cnm.Namespace: the namespaces of one sandbox, and the shim that keeps them.
type Namespace struct {
	// Fail, when not nil, is asked before each call, by the name of its method, and may refuse it.
	Fail func(method string) error

	mu     sync.Mutex
	links  map[string]plumb.Link
	routes plumb.Routes
	files  map[string]string
	kept   []portfwd.Spec
	hangs  bool
}

// NewNamespace makes one that knows nothing yet.
func NewNamespace() *Namespace {
	return &Namespace{links: make(map[string]plumb.Link), files: make(map[string]string)}
}

// Start gives it what a sandbox starts with.
func (n *Namespace) Start(links []plumb.Link, routes plumb.Routes, files []plumb.File) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range links {
		n.links[l.EndpointID] = l
	}
	n.routes = routes
	for _, f := range files {
		n.files[f.Path] = f.Content
	}
}

// Hang makes every later call wait until its context ends, as that of a shim that is stopped.
func (n *Namespace) Hang() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hangs = true
}

func (n *Namespace) do(ctx context.Context, method string, f func() error) error {
	n.mu.Lock()
	hangs := n.hangs
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if n.Fail != nil {
		if err := n.Fail(method); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return f()
}

// Links are its interfaces by name.
func (n *Namespace) Links() []plumb.Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.links), func(a, b plumb.Link) int { return strings.Compare(a.Name, b.Name) })
}

// Routes are those it was told last.
func (n *Namespace) Routes() plumb.Routes {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.routes
}

// File is the content of one.
func (n *Namespace) File(path string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.files[path]
}

// Kept are the sockets it keeps.
func (n *Namespace) Kept() []portfwd.Spec {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kept)
}

func (n *Namespace) Plug(ctx context.Context, l plumb.Link) (dev *os.File, info tap.Info, err error) {
	err = n.do(ctx, "Plug", func() error {
		for _, o := range n.links {
			if o.Name == l.Name || o.EndpointID == l.EndpointID {
				return fmt.Errorf("interface %s exists", l.Name)
			}
		}
		if dev, err = TAP(); err != nil {
			return err
		}
		n.links[l.EndpointID] = l
		info = tap.Info{Name: l.Name, MTU: l.MTU}
		return nil
	})
	return dev, info, err
}

// TAP is a file to hand over as one.
func TAP() (*os.File, error) { return os.Open(os.DevNull) }

// Unplug removes an interface; as the real one it is content when there is none.
func (n *Namespace) Unplug(ctx context.Context, endpointID string) error {
	return n.do(ctx, "Unplug", func() error {
		delete(n.links, endpointID)
		return nil
	})
}

// SetRoutes refuses a route over an interface that is not there.
func (n *Namespace) SetRoutes(ctx context.Context, r plumb.Routes) error {
	return n.do(ctx, "SetRoutes", func() error {
		for _, h := range []plumb.Hop{r.Default4, r.Default6, r.Resolver} {
			there := h.IsZero()
			for _, l := range n.links {
				there = there || l.Name == h.Dev
			}
			if !there {
				return fmt.Errorf("route by %s: no such interface", h.Dev)
			}
		}
		n.routes = r
		return nil
	})
}

func (n *Namespace) SetFiles(ctx context.Context, files []plumb.File) error {
	return n.do(ctx, "SetFiles", func() error {
		for _, f := range files {
			n.files[f.Path] = f.Content
		}
		return nil
	})
}

func (n *Namespace) Keep(ctx context.Context, ls []portfwd.Listener) error {
	return n.do(ctx, "Keep", func() error {
		n.kept = nil
		for _, l := range ls {
			n.kept = append(n.kept, l.Spec)
		}
		return nil
	})
}

package slirp4netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
)

// The API socket.
//
// # Theory of operation
//
// Each connection is one request and has a goroutine; one that says nothing costs that goroutine until its patience
// ends, and nothing else waits for it: neither packets, which are in another process, nor other clients, of which
// maxClients are served at a time. Whether a request is complete is seen by its JSON, not only by the end of what
// the client sends, because clients that wait for the answer before they close are in use.

const (
	maxRequest     = 4096 // less one: a request of so many bytes is too large
	maxClients     = 32
	clientPatience = 10 * time.Second
	// acceptPause is between two tries when the system has no room for a client.
	acceptPause = 100 * time.Millisecond
)

// publisher is a session as the API uses it.
type publisher interface {
	Publish(...portfwd.Spec) ([]portfwd.Spec, error)
	Unpublish(...portfwd.Spec) error
}

// forwards are the ports that the API has published. It is a forwarder.
type forwards struct {
	to publisher

	// mu guards what follows, and is held while a port is published, so that ids have the order of requests.
	mu   sync.Mutex
	last int
	all  []hostfwd
}

func (f *forwards) add(fwd hostfwd) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.to.Publish(fwd.spec()); err != nil {
		return 0, err
	}
	f.last++
	fwd.ID = f.last
	f.all = append(f.all, fwd)
	return fwd.ID, nil
}

func (f *forwards) list() []hostfwd {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.all)
}

func (f *forwards) remove(id int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.all, func(h hostfwd) bool { return h.ID == id })
	if i < 0 {
		return errUnknownID
	}
	if err := f.to.Unpublish(f.all[i].spec()); err != nil {
		return err
	}
	f.all = slices.Delete(f.all, i, i+1)
	return nil
}

// api serves the socket.
type api struct {
	l        *net.UnixListener
	f        forwarder
	guest    netip.Addr
	log      *slog.Logger
	patience time.Duration
	slots    chan struct{} // a place for each client that is served
	closed   chan struct{} // closed by close
	wg       sync.WaitGroup

	// mu guards open.
	mu   sync.Mutex
	open map[net.Conn]bool // nil when closed
}

// serveAPI listens at path, which only its owner may connect to, in place of a socket that was left there. patience is
// how long a client may take for its request, and then for reading the answer.
func serveAPI(path string, f forwarder, guest netip.Addr, patience time.Duration, log *slog.Logger) (*api, error) {
	l, err := listenUnix("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on API socket: %w", err)
	}
	a := &api{
		l: l, f: f, guest: guest, log: log, patience: patience,
		slots: make(chan struct{}, maxClients), closed: make(chan struct{}), open: map[net.Conn]bool{},
	}
	a.wg.Go(a.accept)
	return a, nil
}

// listenUnix listens at path with mode 0600. What is there is removed when it is a socket.
func listenUnix(network, path string) (*net.UnixListener, error) {
	if len(path) > sys.MaxSocketPath {
		return nil, fmt.Errorf("%s: the path has %d bytes, more than %d", path, len(path), sys.MaxSocketPath)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s: it exists and is no socket; remove it or choose another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return sys.ListenUnix(network, path)
}

// close ends the service, with the file, and waits for its end.
func (a *api) close() {
	a.mu.Lock()
	open := a.open
	a.open = nil
	a.mu.Unlock()
	close(a.closed)
	a.l.Close()
	for c := range open {
		c.Close()
	}
	a.wg.Wait()
}

// track remembers an open connection, or forgets it; false says that the service has ended.
func (a *api) track(c net.Conn, open bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		return false
	}
	if open {
		a.open[c] = true
	} else {
		delete(a.open, c)
	}
	return true
}

func (a *api) accept() {
	for {
		c, err := a.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// No descriptors or no memory: somebody else has to free some first.
			a.log.Warn("api client not served", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-a.closed:
			}
			continue
		}
		a.slots <- struct{}{}
		a.wg.Go(func() {
			defer func() { <-a.slots }()
			a.serve(c)
		})
	}
}

// serve answers the one request of a connection.
func (a *api) serve(c *net.UnixConn) {
	defer c.Close()
	if !a.track(c, true) {
		return
	}
	defer a.track(c, false)
	_ = c.SetDeadline(time.Now().Add(a.patience))
	value, err := readRequest(c)
	var reply any
	if err != nil {
		reply = answerError(err)
	} else {
		reply = answer(value, a.f, a.guest)
	}
	b, err := json.Marshal(reply)
	if err != nil {
		a.log.Error("api answer not sent", "err", err)
		return
	}
	_ = c.SetDeadline(time.Now().Add(a.patience))
	if _, err := c.Write(b); err != nil {
		a.log.Debug("api client went away", "err", err)
		return
	}
	_ = c.CloseWrite()
	// Closed with bytes unread, the client would find an error in place of the answer.
	_, _ = io.CopyN(io.Discard, c, 16*maxRequest)
}

// readRequest reads until the request is complete or cannot become it.
func readRequest(c io.Reader) (json.RawMessage, error) {
	buf := make([]byte, maxRequest)
	for n := 0; ; {
		m, err := c.Read(buf[n:])
		if n += m; n == maxRequest {
			return nil, errTooLarge
		}
		value, done, perr := parseRequest(buf[:n])
		if done || err != nil {
			return value, perr
		}
	}
}

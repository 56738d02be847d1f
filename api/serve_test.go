package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/cnm/fault"
)

// serve answers on a socket until stop, which returns when all has ended.
func serve(t *testing.T, b Backend) (c *client.Client, stop func()) {
	t.Helper()
	return serveAt(t, b, filepath.Join(t.TempDir(), "usernet.sock"))
}

func serveAt(t *testing.T, b Backend, socket string) (c *client.Client, stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, NewServer(b, Options{}), nil) }()
	c = client.New(socket)
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		c.Close()
	})
	t.Cleanup(stop)
	return c, stop
}

// Our own client and our server understand each other, over a socket.
func TestServe(t *testing.T) {
	b := newFake()
	c, stop := serve(t, b)
	ctx := t.Context()
	if err := c.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if l, err := c.NetworkList(ctx, client.Filters{"driver": {"bridge"}, "label": {"a=1"}}); err != nil || len(l) != 1 || l[0].Name != "web" {
		t.Errorf("list: %v, %v", l, err)
	}
	n, raw, err := c.NetworkInspect(ctx, "web", true)
	if err != nil || n.Containers[id1].IPv4Address.String() != "172.18.0.2/16" || !strings.Contains(string(raw), `"Status"`) {
		t.Errorf("inspect: %+v, %v", n, err)
	}
	if _, _, err := c.NetworkInspect(ctx, "../../x", false); !client.IsNotFound(err) || err.Error() != "network ../../x not found" {
		t.Errorf("inspect what is not there: %v", err)
	}
	if r, err := c.NetworkCreate(ctx, network.CreateRequest{Name: "n"}); err != nil || r.ID != idWeb {
		t.Errorf("create: %v, %v", r, err)
	}
	if err := c.NetworkConnect(ctx, "web", network.ConnectRequest{Container: "c1"}); err != nil {
		t.Error(err)
	}
	if err := c.NetworkDisconnect(ctx, "web", network.DisconnectRequest{Container: "c1", Force: true}); err != nil {
		t.Error(err)
	}
	if r, err := c.NetworkPrune(ctx, client.Filters{"label": {"a=2"}}); err != nil || len(r.NetworksDeleted) != 1 {
		t.Errorf("prune: %v, %v", r, err)
	}
	if l, err := c.ContainerList(ctx, client.Filters{"network": {"web"}}); err != nil || len(l) != 1 {
		t.Errorf("containers: %v, %v", l, err)
	}
	if i, _, err := c.ContainerInspect(ctx, "c1"); err != nil || i.State.Pid != 7 {
		t.Errorf("container: %v, %v", i, err)
	}
	if err := c.ContainerStop(ctx, "c1", 3*time.Second); err != nil {
		t.Error(err)
	}
	if v, err := c.Version(ctx); err != nil || v.APIVersion != "1.56" {
		t.Errorf("version: %v, %v", v, err)
	}
	b.err = fault.New(fault.Conflict, "a prune operation is already running") // C-pr1
	if _, err := c.NetworkPrune(ctx, nil); err == nil || err.Error() != "a prune operation is already running" {
		t.Errorf("a second prune: %v", err)
	}
	// The end of the server ends its streams.
	b.live <- event("network", "create", idWeb, "web", 0)
	for m, err := range c.Events(ctx, client.EventsOptions{Filters: client.Filters{"type": {"network"}}}) {
		if err != nil {
			break // cut off is an end too
		}
		if m.Action != "create" {
			t.Errorf("event %+v", m)
		}
		go stop()
	}
	stop()
}

// LU-06: 500 clients in the middle of a header, and four that send without end, cost another one little.
func TestLU06OthersAreServed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "usernet.sock")
	c, _ := serveAt(t, newFake(), socket)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 500 {
		slow, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		fmt.Fprint(slow, "GET /v1")
	}
	var wg sync.WaitGroup
	for range 4 {
		endless, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer endless.Close()
		wg.Go(func() {
			fmt.Fprint(endless, "POST /networks/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
			line := make([]byte, len("HTTP/1.1 413"))
			go func() { // the server hangs up before it has read all
				for b := bytes.Repeat([]byte{' '}, 64<<10); ; {
					if _, err := endless.Write(b); err != nil {
						return
					}
				}
			}()
			if _, err := io.ReadFull(endless, line); err != nil || string(line) != "HTTP/1.1 413" {
				t.Errorf("an endless body: %q, %v", line, err)
			}
		})
	}
	for range 50 {
		if _, err := c.NetworkList(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	// What is held, not what the collector has still to find.
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

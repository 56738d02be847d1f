package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// TestRelayKeepsHalfClose: the server sees the client's end and still answers.
func TestRelayKeepsHalfClose(t *testing.T) {
	target, ln := listen(t), listen(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c, err := target.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c) // until the half-close
		c.Write(all)
	})
	r := relay{dial: target.Addr().String(), buffer: 64 << 10}
	wg.Go(func() {
		if err := r.serve(ln); err != nil {
			t.Error(err)
		}
	})
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := bytes.Repeat([]byte("usernet "), 1<<17)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
	ln.Close()
}

// Command relay is a plain TCP relay: the bound that the bench compares the datapath with.
//
//	relay [-buffer BYTES] LISTEN DIAL
//
// It accepts on LISTEN, dials DIAL for each connection, and copies both ways with read and write until
// both sides are done. It prints `listening ADDR`, so that LISTEN may have port 0.
//
// A byte on its way through usernet is copied four times between user space and the kernel: by the
// sender, into the datapath, out of it, and by the receiver. A relay on loopback makes the same four
// copies and does nothing else, so no user-space network is faster. splice(2) would skip two of them
// and measure something else; that is why it is kept from Go, which uses it for a bare TCPConn.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

func main() {
	buffer := flag.Int("buffer", 128<<10, "bytes read and written at once")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: relay [-buffer BYTES] LISTEN DIAL")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 || *buffer <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ln, err := net.Listen("tcp", flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
	fmt.Println("listening", ln.Addr())
	r := relay{dial: flag.Arg(1), buffer: *buffer}
	if err := r.serve(ln); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

type relay struct {
	dial   string
	buffer int // bytes
}

// serve relays what ln accepts until ln is closed, and waits for the connections.
func (r *relay) serve(ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept connection: %w", err)
		}
		wg.Go(func() {
			if err := r.forward(c.(*net.TCPConn)); err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
			}
		})
	}
}

// forward relays one connection until both directions are done.
func (r *relay) forward(client *net.TCPConn) error {
	defer client.Close()
	c, err := net.Dial("tcp", r.dial)
	if err != nil {
		return fmt.Errorf("forward connection: %w", err)
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	var wg sync.WaitGroup
	wg.Go(func() { r.copy(server, client) })
	r.copy(client, server)
	wg.Wait()
	return nil
}

// copy moves one direction and passes its end on. A broken direction ends both, as a reset does.
func (r *relay) copy(dst, src *net.TCPConn) {
	// The wrappers hide ReadFrom and WriteTo, and with them splice.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, r.buffer))
	if err != nil {
		dst.Close()
		src.Close()
		return
	}
	_ = dst.CloseWrite() // fails when dst is gone, and then there is nobody to tell
}

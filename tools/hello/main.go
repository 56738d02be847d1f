// Command hello is the server and the client of `make demo`.
//
//	hello serve :80     answer each request with who asked, and what this network looks like
//	hello get URL       wait until URL answers, and print the answer
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// patience is how long get waits for a server that is just starting.
const patience = 10 * time.Second

func main() {
	err := errors.New("want serve ADDR or get URL")
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "serve":
			err = http.ListenAndServe(os.Args[2], http.HandlerFunc(hello))
		case "get":
			err = get(os.Args[2])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

// hello answers a request.
func hello(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	fmt.Fprintf(w, "Hello %s, this is %s, uid %d.\n", r.RemoteAddr, host, os.Getuid())
	interfaces, err := net.Interfaces()
	if err != nil {
		fmt.Fprintln(w, err)
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			fmt.Fprintln(w, err)
		}
		fmt.Fprintln(w, " ", i.Name, "mtu", i.MTU, addrs)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		fmt.Fprintln(w, err)
	}
	for line := range strings.Lines(string(resolv)) {
		fmt.Fprint(w, "  ", line)
	}
}

// get prints what url answers. A container that does not listen yet refuses the connection, as a host does.
func get(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := try(ctx, url)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func try(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

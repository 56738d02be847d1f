// Package client speaks the API of package api over a unix socket. It knows nothing of the server but its
// paths, so that the command line, which imports it, stays small.
//
// Types are those of Docker's API. It sends no version and so speaks the server's newest. Every method may be called by
// several goroutines.
package client

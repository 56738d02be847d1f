// Package proctest is what tests of processes share: what a process writes, and a kernel of the test's own.
package proctest

import (
	"strings"
	"sync"
)

// Output collects what a process, or a logger, writes. The zero value is empty; any goroutine may use it.
type Output struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer and does not fail.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all of it until now.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Has reports whether s has been written.
func (o *Output) Has(s string) bool { return strings.Contains(o.String(), s) }

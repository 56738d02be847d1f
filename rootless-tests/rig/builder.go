package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/rootless-tests/programs"
)

// builder makes the rig and waits for the tests.
type builder struct {
	self, usernet string // executables
	args          []string

	mu     sync.Mutex
	spaces map[string]*space
}

// build is the life of the builder; args are those of the tests.
func build(args []string) (int, error) {
	if err := programs.Provide(os.Stderr, programs.Tests); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "usernet-rig-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	b := &builder{args: testArgs(args), spaces: map[string]*space{}}
	if b.self, err = os.Executable(); err != nil {
		return 1, err
	}
	if b.usernet, err = buildUsernet(dir); err != nil {
		return 1, err
	}
	return b.run()
}

// testArgs are the arguments for the tests: without the log of files that go test keeps for its cache, which
// an ordinary user cannot write.
func testArgs(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return strings.HasPrefix(strings.TrimLeft(a, "-"), "test.testlogfile=")
	})
}

// buildUsernet builds the binary under test into dir, or takes the one that USERNET_BIN names.
func buildUsernet(dir string) (string, error) {
	if bin := os.Getenv("USERNET_BIN"); bin != "" {
		return bin, nil
	}
	bin := filepath.Join(dir, "usernet")
	c := exec.Command("go", "build", "-o", bin, "github.com/usernet/usernet/cmd/usernet")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build usernet: %w\n%s", err, out)
	}
	return bin, nil
}

// run makes namespaces and nodes, runs the tests and ends everything.
func (b *builder) run() (int, error) {
	var sockets []*os.File
	// Closing the sockets ends the nodes, and those are what keeps the namespaces.
	defer func() {
		for _, s := range sockets {
			s.Close()
		}
	}()
	var nodes sync.WaitGroup
	inH := make(chan func()) // work for a thread in H
	for _, name := range spaceNames {
		mine, theirs, err := sys.Socketpair()
		if err != nil {
			return 1, err
		}
		sockets = append(sockets, mine)
		started := make(chan error)
		nodes.Go(func() { b.node(name, theirs, started, inH) })
		if err := <-started; err != nil {
			return 1, err
		}
	}
	if err := connect(b.spaces); err != nil {
		return 1, err
	}
	var code int
	var err error
	done := make(chan struct{})
	inH <- func() { code, err = b.tests(sockets); close(done) }
	<-done
	for _, s := range sockets {
		s.Close()
	}
	close(inH)
	nodes.Wait()
	return code, err
}

// node makes a namespace and runs its node process until that ends. Its goroutine keeps the thread, because
// the node is killed when the thread that started it ends. In H it then does the work that comes over inH.
func (b *builder) node(name string, socket *os.File, started chan<- error, inH <-chan func()) {
	s, err := enterNew(name)
	if err != nil {
		started <- err
		return
	}
	c := exec.Command(b.self, nodeRole, "3")
	c.ExtraFiles = []*os.File{socket}
	c.Stderr = os.Stderr
	// A group of its own: ^C is the tests' to act on.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = c.Start()
	socket.Close()
	if err != nil {
		started <- fmt.Errorf("start node %s: %w", name, err)
		return
	}
	b.mu.Lock()
	b.spaces[name] = s
	b.mu.Unlock()
	started <- nil
	if name == "H" {
		for work := range inH {
			work()
		}
	}
	if err := c.Wait(); err != nil {
		fmt.Fprintf(os.Stderr, "rig: node %s: %v\n", name, err)
	}
}

// tests runs the tests in the namespace of the calling thread and returns their exit code.
func (b *builder) tests(sockets []*os.File) (int, error) {
	c := exec.Command(b.self, append([]string{enterRole}, b.args...)...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), usernetEnv+"="+b.usernet)
	c.ExtraFiles = sockets
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 1, fmt.Errorf("start tests: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = c.Process.Signal(sig) // it may have ended just now
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}

package rig

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Words that select a role of the test binary when they are its first argument.
const (
	nodeRole  = "__node"  // with the number of the descriptor of its socket
	rootRole  = "__root"  // likewise: a node that enters another root first
	enterRole = "__enter" // with the arguments of the tests
)

// insideEnv is in the environment of the process that runs the tests.
const insideEnv = "USERNET_RIG_INSIDE"

// Where things are for the tests.
const (
	runDir  = "/run/rig"
	Usernet = runDir + "/usernet" // the binary under test
	nodeExe = runDir + "/node"    // this binary
	// ResolvConf is H's own; a test may write or replace it.
	ResolvConf = "/etc/resolv.conf"
)

// spaceNames are the namespaces; the tests inherit the sockets of their nodes in this order from descriptor 3, and
// then that of the node in another root.
var spaceNames = []string{"H", "R", "X1", "X2"}

// Main is the TestMain of a package with tests in the rig. It does not return.
func Main(m *testing.M) { os.Exit(play(m)) }

// play runs the role of this process and returns its exit code.
func play(m *testing.M) int {
	var err error
	code := 1
	switch role := firstArg(); {
	case role == nodeRole:
		err = node()
		code = 0
	case role == rootRole:
		err = enterRoot()
		code = 0
	case role == enterRole:
		err = enter(os.Args[2:])
	case os.Getenv(insideEnv) != "":
		if err = inherit(); err == nil {
			code = m.Run()
			// Of commands that were not given a daemon of their own.
			err = endDaemon(runtimeDir())
		}
	case os.Geteuid() == 0:
		code, err = build(os.Args[1:])
	default:
		err = errors.New("these tests build network namespaces, and run usernet in them as an ordinary user; " +
			"start them as root, for instance: sudo env PATH=$PATH go test ./rootless-tests/")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		return 1
	}
	return code
}

func firstArg() string {
	if len(os.Args) > 1 {
		return os.Args[1]
	}
	return ""
}

// node is the life of a node process.
func node() error {
	fd, err := strconv.Atoi(strings.Join(os.Args[2:], " "))
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	// A duplicate, because package os may have given the descriptor to the poller as os.Stdin.
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	unix.CloseOnExec(fd)
	return serveNode(os.NewFile(uintptr(own), "node"))
}

// Rig is the network, as the tests see it.
type Rig struct {
	H, R, X1, X2 *Node
	// Debian13 is in H, too; its commands are the ordinary user's, and of another Debian: podman 5, pasta and
	// rootlesskit 2 are there. What lies in /run and /tmp is the same.
	Debian13 *Node
}

// shared is the rig of this process; inherit makes it.
var shared *Rig

// inherit takes over the sockets of the nodes.
func inherit() error {
	var nodes []*Node
	for i, name := range append(slices.Clone(spaceNames), "Debian13") {
		unix.CloseOnExec(3 + i)
		f := os.NewFile(uintptr(3+i), name)
		if _, err := f.Stat(); err != nil {
			return fmt.Errorf("inherit socket of node %s: %w", name, err)
		}
		nodes = append(nodes, newNode(name, f))
	}
	shared = &Rig{nodes[0], nodes[1], nodes[2], nodes[3], nodes[4]}
	return nil
}

// Start returns the rig. All tests share it: a test that changes it (an MTU, a firewall rule, a sysctl, H's
// resolv.conf) puts it back and is not parallel, since go test runs parallel tests after all others.
func Start(t testing.TB) *Rig {
	t.Helper()
	if shared == nil {
		t.Fatal("no rig: the package's TestMain does not call rig.Main")
	}
	return shared
}

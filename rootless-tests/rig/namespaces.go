package rig

import (
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// Inside returns a node in the user and network namespace of a process of the ordinary user, say of a container: for
// sockets and commands there, with the files of the tests. The namespaces last as long as the node, which is closed
// with the test; a test of what happens at their end closes it before.
func (r *Rig) Inside(t testing.TB, pid int) *Node {
	t.Helper()
	mine, theirs, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("nsenter", "--target", strconv.Itoa(pid), "--user", "--net", "--preserve-credentials", "--", nodeExe, nodeRole, "0")
	c.Stdin = theirs
	err = c.Start()
	theirs.Close()
	if err != nil {
		mine.Close()
		t.Fatal(err)
	}
	n := newNode("inside process "+strconv.Itoa(pid), mine)
	t.Cleanup(func() {
		n.Close()
		_ = c.Wait() // a node ends as its socket does
	})
	if err := n.answers(); err != nil {
		t.Fatalf("enter namespaces of process %d: %v", pid, err)
	}
	return n
}

// answers waits until the node does.
func (n *Node) answers() error {
	if err := n.socket.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	f, err := n.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	f.Close()
	return n.socket.SetReadDeadline(time.Time{})
}

//go:build originals

package rootlesstests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// frontEnds are the names that usernet is called by.
var frontEnds = []string{"slirp4netns", "pasta", "pesto", "rootlessport"}

// placeFrontEnds makes links to usernet with those names in a directory of the test's.
func placeFrontEnds(t testing.TB, dir string) {
	t.Helper()
	for _, name := range frontEnds {
		if err := os.Symlink(rig.Usernet, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// waitLinkLocal waits for the IPv6 address that the kernel makes once an interface is up and its TAP is held.
func waitLinkLocal(t testing.TB, n *rig.Node) {
	t.Helper()
	rig.WaitFor(t, rig.Patience, "a link-local address inside", func() bool {
		for _, l := range links(t, n) {
			for _, a := range l.Addrs {
				if l.Name != "lo" && a.Local.Is6() && a.Local.IsLinkLocalUnicast() {
					return true
				}
			}
		}
		return false
	})
}

package rootlesstests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// originalTries is how often one of the original's programs may begin. Now and then Debian 13's pasta has been seen to leave
// a namespace with lo alone, in less than one of a thousand starts; then there is nothing to compare with. Ours has one try.
const originalTries = 3

// connected reports whether there is an interface besides lo. If not, the log tells what the network programs are doing.
func connected(t testing.TB, n *rig.Node, programs func(testing.TB) []int) bool {
	t.Helper()
	if slices.ContainsFunc(links(t, n), func(l link) bool { return l.Name != "lo" }) {
		return true
	}
	pids := programs(t)
	t.Logf("the original's network program, processes %v, leaves the namespace without an interface, and is run once more", pids)
	for _, pid := range pids {
		// What root sees of it: whether it has ended, where it waits, and whether it still holds a TAP.
		out, _, err := rig.Start(t).H.Exec(t.Context(), "", "sh", "-c", "cd /proc/$0 && grep -E 'Name|State' status; cat wchan syscall; ls -l fd; grep -h iff fdinfo/*", fmt.Sprint(pid))
		t.Logf("process %d: %v\n%s", pid, err, out)
	}
	return false
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

package shim

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestFT02KeepsDaemonsDatapath: a daemon that a shim has started, because the last one was killed, is the shim's child and
// its datapath, in a user namespace of its own, the shim's grandchild. The end of that one sandbox is no end of theirs:
// the others need them.
func TestFT02KeepsDaemonsDatapath(t *testing.T) {
	const daemon = `sh -c 'unshare -r sleep 1000 & p=$!
		while [ "$(readlink /proc/$p/ns/user)" = "$(readlink /proc/self/ns/user)" ]; do :; done
		echo datapath $p; exec >&-; wait' 2>/dev/null & `
	s := startWith(t, testConfig{Command: sh("read x")}, daemon+`exec "$@"`)
	pid, err := strconv.Atoi(strings.Fields(s.line("datapath"))[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, pid, syscall.SIGKILL) })
	s.signal(syscall.SIGTERM)
	s.code()
	if state, _, ok := readStat(pid); !ok || state == 'Z' {
		t.Error("the datapath was ended")
	}
}

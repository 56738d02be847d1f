package rootlesstests

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// resident is how much memory a process has in RAM, in bytes.
func resident(t testing.TB, pid int) int64 {
	t.Helper()
	kib, err := strconv.ParseInt(strings.TrimSuffix(statusOf(t, pid)["VmRSS"], " kB"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// statusOf is /proc/PID/status, which all processes may read.
func statusOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	return fields
}

// processStat returns the fields of /proc/PID/stat from the state on (proc_pid_stat(5)); nil when there is no
// such process, or a zombie only.
func processStat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if f[0] == "Z" {
		return nil
	}
	return f
}

func alive(pid int) bool { return processStat(pid) != nil }

// processor is which share of one processor a process uses over d. Letting d pass is the measurement.
func processor(t testing.TB, pid int, d time.Duration) float64 {
	t.Helper()
	used := func() time.Duration {
		f := processStat(pid)
		if f == nil {
			t.Fatalf("process %d has ended", pid)
		}
		user, err1 := strconv.Atoi(f[11])
		system, err2 := strconv.Atoi(f[12])
		if err1 != nil || err2 != nil {
			t.Fatalf("stat of process %d: %v", pid, f)
		}
		return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
	}
	before, began := used(), time.Now()
	<-time.After(d)
	return float64(used()-before) / float64(time.Since(began))
}

// below are the processes descending from pid, parents first.
func below(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			return nil
		}
		for _, path := range lists {
			b, _ := os.ReadFile(path) // a thread may have ended
			for _, f := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(f); err == nil && alive(child) {
					all = append(all, child)
				}
			}
		}
	}
	return all[1:]
}

// initOf is the init process of a sandbox.
func initOf(t testing.TB, p *rig.Process) int {
	t.Helper()
	pid := 0
	rig.WaitFor(t, rig.Patience, "find init", func() bool {
		for _, c := range below(p.PID()) {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c))
			f := processStat(c)
			if f != nil && f[1] == strconv.Itoa(p.PID()) && slices.Contains(strings.Split(string(b), "\x00"), "__init") {
				pid = c
			}
		}
		return pid != 0
	})
	return pid
}

// newDatapath waits for the datapath that replaces an old one.
func newDatapath(t testing.TB, p *rig.Process, old int, limit time.Duration) int {
	t.Helper()
	pid := 0
	rig.WaitFor(t, limit, "next datapath", func() bool {
		if alive(old) {
			return false
		}
		pid = p.Datapath(t)
		return pid != old
	})
	return pid
}

// listener is a TCP or UDP socket in H that takes what comes.
type listener struct {
	proto string // tcp or udp
	at    netip.AddrPort
}

// listeners are those in H, as ss shows them, in a fixed order. Its list is garbled when there are thousands, which
// tests that run in parallel may have.
func listeners(t testing.TB, r *rig.Rig) (all []listener) {
	t.Helper()
	for line := range strings.Lines(r.H.Run(t, "ss", "-Hltun")) {
		f := strings.Fields(line)
		if len(f) < 5 {
			t.Fatalf("line of ss: %q", line)
		}
		// *:80 is what ss writes for a socket of both families.
		at, err := netip.ParseAddrPort(f[4])
		if err != nil {
			t.Fatalf("ss shows %s %s: %v", f[0], f[4], err)
		}
		all = append(all, listener{f[0], at})
	}
	slices.SortFunc(all, func(a, b listener) int {
		return strings.Compare(a.proto+a.at.String(), b.proto+b.at.String())
	})
	return all
}

// listenersOn are the listeners on a host port, from /proc/net, whose format is that of proc_net_tcp.txt.
func listenersOn(t testing.TB, port uint16) (all []string) {
	t.Helper()
	for _, table := range []struct{ name, state string }{{"tcp", "0A"}, {"tcp6", "0A"}, {"udp", "07"}, {"udp6", "07"}} {
		b, err := os.ReadFile("/proc/self/net/" + table.name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if at, ok := strings.CutSuffix(f[1], fmt.Sprintf(":%04X", port)); ok && f[3] == table.state {
				all = append(all, strings.TrimSuffix(table.name, "6")+" "+kernelAddr(t, at).String())
			}
		}
	}
	return all
}

// kernelAddr reads an address as the kernel prints it: words of 32 bits, each a number in the machine's byte order.
func kernelAddr(t testing.TB, s string) netip.Addr {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// runtimeFiles are what usernet keeps of running sandboxes.
func runtimeFiles(t testing.TB) (all []string) {
	t.Helper()
	err := filepath.WalkDir(os.Getenv("XDG_RUNTIME_DIR"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return nil // what is gone meanwhile is not there
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// percentile is the p-th of durations, which it sorts.
func percentile(ds []time.Duration, p int) time.Duration {
	slices.Sort(ds)
	return ds[min(len(ds)*p/100, len(ds)-1)]
}

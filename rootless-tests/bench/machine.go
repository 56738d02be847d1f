package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// newResult says where and how the run takes place.
func newResult(o options, dir string) *report.Result {
	r := &report.Result{
		Machine: report.Machine{CPU: cpuModel(), CPUs: runtime.NumCPU()},
		Started: time.Now().UTC(), Rounds: o.repeat, Window: o.window, MTUs: o.mtus, Versions: map[string]string{},
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Machine.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	for name, args := range map[string][]string{
		"usernet": {dir + "/usernet", "version"}, "slirp4netns": {"slirp4netns", "--version"},
		"pasta": {"pasta", "--version"}, "rootlesskit": {"rootlesskit", "--version"}, "iperf3": {"iperf3", "--version"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).Output(); err == nil {
			line, _, _ := bytes.Cut(out, []byte("\n"))
			r.Versions[name] = string(line)
		}
	}
	// Debian's pasta does not know its version; its package does.
	for name, pkg := range map[string]string{
		"pasta": "passt", "slirp4netns": "slirp4netns", "iperf3": "iperf3",
		"podman": "podman", "netavark": "netavark", "aardvark-dns": "aardvark-dns",
	} {
		if out, err := exec.Command("dpkg-query", "--show", "--showformat=${Version}", pkg).Output(); err == nil {
			r.Versions[name] = pkg + " " + string(out) + " of the distribution"
		}
	}
	return r
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// toolPort is iperf3's usual one; in the rig nobody else has it.
const toolPort = 5201

// compareTool measures loopback with iperf3 and with the load tool, so that a reader sees that the tool is not
// what limits the figures.
func (m *meter) compareTool() {
	progress("iperf3")
	theirs, err := m.iperf3()
	if err != nil {
		m.result.Notes = append(m.result.Notes, "iperf3 did not run: "+err.Error())
		return
	}
	r, err := m.client.Do(load.Request{Op: load.Stream, To: m.builder.to(hostLoopback).tcp, Warm: m.warm, Window: 2 * m.window})
	if err != nil {
		m.result.Notes = append(m.result.Notes, "the load tool did not run: "+err.Error())
		return
	}
	m.result.Notes = append(m.result.Notes, fmt.Sprintf("one stream on loopback: %.1f Gbit/s by iperf3, %.1f by the load tool",
		theirs/giga, r.Rate*bitsPerByte/giga))
}

// iperf3 returns the bits per second that its receiver saw.
func (m *meter) iperf3() (float64, error) {
	server, err := launch(exec.Command("iperf3", "--server", "--one-off", "--forceflush", "--port", strconv.Itoa(toolPort)))
	if err != nil {
		return 0, err
	}
	defer server.stop()
	if err := server.waitFor("iperf3", func() bool { return strings.Contains(server.messages(), "listening") }); err != nil {
		return 0, err
	}
	// It counts whole seconds.
	out, err := exec.Command("iperf3", "--client", "127.0.0.1", "--port", strconv.Itoa(toolPort), "--time", "2", "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("run iperf3: %w", err)
	}
	var result struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return 0, fmt.Errorf("read result of iperf3: %w", err)
	}
	return result.End.Received.BitsPerSecond, nil
}

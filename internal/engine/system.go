package engine

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
)

// Version implements api.Backend.
func (e *Engine) Version(context.Context) (system.VersionResponse, error) {
	return system.VersionResponse{
		Platform: system.PlatformInfo{Name: "usernet"}, Version: e.o.Version, GitCommit: e.o.Commit, BuildTime: e.o.BuildTime,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernelVersion(),
	}, nil
}

// Info implements api.Backend. What usernet has nothing of is left out.
func (e *Engine) Info(ctx context.Context) (system.Info, error) {
	all, err := e.all(ctx)
	if err != nil {
		return system.Info{}, err
	}
	running := 0
	for _, c := range all {
		if c.running() {
			running++
		}
	}
	host, _ := os.Hostname() // left out when there is none
	return system.Info{
		Name: host, ServerVersion: e.o.Version, Containers: len(all), ContainersRunning: running, ContainersStopped: len(all) - running,
		Plugins:             system.PluginsInfo{Network: e.o.Drivers, Volume: []string{}, Log: []string{}},
		Swarm:               swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		SecurityOptions:     []string{"name=rootless"},
		DefaultAddressPools: e.o.Pools,
		IPv4Forwarding:      true,
		Debug:               e.o.Debug != nil && e.o.Debug(),
		NEventsListener:     e.events.listeners(),
		NGoroutines:         runtime.NumGoroutine(),
		SystemTime:          e.now().Format("2006-01-02T15:04:05.999999999Z07:00"),
		LoggingDriver:       "none",
		CgroupDriver:        "none",
		DockerRootDir:       e.o.StateDir,
		KernelVersion:       kernelVersion(),
		OperatingSystem:     operatingSystem(),
		OSType:              runtime.GOOS,
		Architecture:        machine(),
		NCPU:                runtime.NumCPU(),
		MemTotal:            memory(),
		FirewallBackend:     &system.FirewallInfo{Driver: "none"},
		// Without any, old clients make up warnings about what a runtime of containers would lack.
		Warnings: []string{"WARNING: this is usernet: it connects sandboxes and limits none of their resources"},
	}, nil
}

func kernelVersion() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// operatingSystem is what os-release(5) calls it.
func operatingSystem() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

// memory is the host's, in bytes.
func memory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // zero is shown as unknown
			return kib << 10
		}
	}
	return 0
}

// machine is the architecture as uname(1) says it.
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

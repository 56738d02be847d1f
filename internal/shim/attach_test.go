package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// attached is a running Attach.
type attached struct {
	*exec.Cmd
	t      *testing.T
	ready  *os.File
	stderr strings.Builder
	asker
}

func startAttach(t *testing.T, cfg AttachConfig) *attached {
	t.Helper()
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a := &attached{Cmd: exec.Command(self(t), attachRole, string(b)), t: t, ready: r}
	its := a.asker.open(t, 4)
	defer its.Close()
	a.ExtraFiles, a.Stderr = []*os.File{w, its}, &a.stderr
	a.Env = append(os.Environ(), changesEnv+"=4")
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Process.Kill()
		_ = a.Wait()
		r.Close()
	})
	return a
}

// waitReady waits for the ready signal: "1" and the end.
func (a *attached) waitReady() {
	a.t.Helper()
	_ = a.ready.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(a.ready)
	if err != nil || string(b) != "1" {
		_ = a.Process.Kill()
		_ = a.Wait()
		a.t.Fatalf("ready: %q, %v; %s", b, err, a.stderr.String())
	}
}

// ended waits for the end, and wants it to be an orderly one.
func (a *attached) ended() {
	a.t.Helper()
	waitGone(a.t, []int{a.Process.Pid})
	if err := a.Wait(); err != nil {
		a.t.Errorf("%v: %s", err, a.stderr.String())
	}
}

// container starts a process in namespaces of its own.
func container(t *testing.T, flags ...string) *exec.Cmd {
	t.Helper()
	return containerRunning(t, "echo ready; exec sleep 1000", flags...)
}

// containerRunning runs a script in namespaces of its own and waits until it says "ready".
func containerRunning(t *testing.T, script string, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("unshare", append(flags, "--net", "/bin/sh", "-c", script)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lineFrom(t, r, "ready")
	return cmd
}

// inside runs a command in the namespaces of pid.
func inside(t *testing.T, pid int, command ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(pid), "-U", "-n", "--preserve-credentials"}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestAttachPID(t *testing.T) {
	c := container(t, "--user", "--map-root-user")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid})
	a.waitReady()
	if out := inside(t, c.Process.Pid, "cat", "/proc/net/dev", "/proc/net/route", "/proc/net/if_inet6"); !strings.Contains(out, "eth0:") ||
		!strings.Contains(out, "0202000A") || !strings.Contains(out, "fd00000000000000000000000000010") {
		t.Errorf("not configured:\n%s", out)
	}
	_ = c.Process.Kill()
	a.ended()
}

// TestAttachSignal: asked to end, attach takes the interface away.
func TestAttachSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c := container(t, "--user", "--map-root-user")
		a := startAttach(t, AttachConfig{PID: c.Process.Pid})
		a.waitReady()
		kill(t, a.Process.Pid, sig)
		a.ended()
		if out := inside(t, c.Process.Pid, "cat", "/proc/net/dev"); strings.Contains(out, "eth0") {
			t.Errorf("after %v eth0 is still there:\n%s", sig, out)
		}
	}
}

// TestAttachKill: nothing but the process itself is needed to take the interface away.
func TestAttachKill(t *testing.T) {
	c := container(t, "--user", "--map-root-user")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid})
	a.waitReady()
	children := descendants(a.Process.Pid)
	_ = a.Process.Kill()
	_ = a.Wait()
	if len(children) != 0 {
		t.Errorf("attach had children %v when ready", children)
	}
	if out := inside(t, c.Process.Pid, "cat", "/proc/net/dev"); strings.Contains(out, "eth0") {
		t.Errorf("eth0 is still there:\n%s", out)
	}
}

// TestAttachTwice: the second finds the name taken and changes nothing.
func TestAttachTwice(t *testing.T) {
	c := container(t, "--user", "--map-root-user")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid})
	a.waitReady()
	b := startAttach(t, AttachConfig{PID: c.Process.Pid})
	if err := b.Wait(); err == nil || !strings.Contains(b.stderr.String(), "eth0") {
		t.Errorf("%v: %s", err, b.stderr.String())
	}
	if out := inside(t, c.Process.Pid, "cat", "/proc/net/dev"); !strings.Contains(out, "eth0") {
		t.Errorf("the first one's eth0 is gone:\n%s", out)
	}
}

// TestAttachPath: a namespace with a name ends with its mount or its name. All is within one user
// namespace, as it is for root.
func TestAttachPath(t *testing.T) {
	ends := map[string]string{"unmounted": "umount /run/netns/web", "unmounted and deleted": "umount -l /run/netns/web; rm /run/netns/web"}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(AttachConfig{Netns: "/run/netns/web"})
			if err != nil {
				t.Fatal(err)
			}
			script := `mkdir /run/netns; touch /run/netns/web; mkfifo /run/ready
				unshare --net mount --bind /proc/self/ns/net /run/netns/web
				"$1" ` + attachRole + ` '` + string(b) + `' 3>/run/ready & pid=$!
				read -r x < /run/ready || :; echo "ready $x"
				nsenter --net=/run/netns/web cat /proc/net/dev | grep -o eth0
				kill -0 $pid; ` + end + `; wait $pid; echo code $?`
			out := onHost(t, "", script, testConfig{})
			if out != "ready 1\neth0\ncode 0\n" {
				t.Errorf("got %q", out)
			}
		})
	}
}

// TestAttachHostile: whatever a path leads to, there is an error at once and no effect (LU-20).
func TestAttachHostile(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  AttachConfig
		want string
	}{
		{"fifo", AttachConfig{Netns: fifo}, "give a path such as"},
		{"file", AttachConfig{Netns: file}, "give a path such as"},
		{"device", AttachConfig{Netns: "/dev/zero"}, "give a path such as"},
		{"missing", AttachConfig{Netns: dir + "/none"}, "no such file"},
		{"other kind", AttachConfig{Netns: "/proc/self/ns/mnt"}, "give a path such as"},
		{"our own", AttachConfig{Netns: "/proc/self/ns/net"}, "the one this process is in"},
		{"init's", AttachConfig{Netns: "/proc/1/ns/net"}, "permission denied"},
		{"init", AttachConfig{PID: 1}, "permission denied"},
		{"no process", AttachConfig{PID: 1 << 22}, "no such process"},
		{"our own process", AttachConfig{PID: os.Getpid()}, "the one this process is in"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := startAttach(t, tt.cfg)
			waitGone(t, []int{a.Process.Pid})
			if err := a.Wait(); err == nil || a.ProcessState.ExitCode() != ExitFailure || !strings.Contains(a.stderr.String(), tt.want) {
				t.Errorf("%v: %q, want %q", err, a.stderr.String(), tt.want)
			}
		})
	}
}

// TestAttachUserns: a user namespace given by path is entered, and one that does not own the network is refused.
func TestAttachUserns(t *testing.T) {
	c := container(t, "--user", "--map-root-user")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid, Userns: fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid)})
	a.waitReady()
	other := container(t, "--user", "--map-root-user")
	b := startAttach(t, AttachConfig{PID: c.Process.Pid, Userns: fmt.Sprintf("/proc/%d/ns/user", other.Process.Pid)})
	if err := b.Wait(); err == nil || !strings.Contains(b.stderr.String(), "no rights in the namespace") {
		t.Errorf("%v: %s", err, b.stderr.String())
	}
}

// ownEtc is a script that gives a container an /etc of its own.
const ownEtc = `mount -t tmpfs t /etc; echo theirs > /etc/resolv.conf; echo theirs > /etc/hosts; `

// ownedContainer is a container with a mount namespace in which setup has been done.
func ownedContainer(t *testing.T, setup string) *exec.Cmd {
	t.Helper()
	return containerRunning(t, setup+"echo ready; exec sleep 1000", "--user", "--map-root-user", "--mount")
}

// readBelow reads a file as process pid sees it.
func readBelow(t *testing.T, pid int, path string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", pid, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var attachFiles = []plumb.File{{Path: "/etc/resolv.conf", Content: "nameserver 10.0.2.3\n"}}

// TestAttachChanges: an attached namespace has the changes that a sandbox has.
func TestAttachChanges(t *testing.T) {
	c := ownedContainer(t, ownEtc)
	a := startAttach(t, AttachConfig{PID: c.Process.Pid, Files: attachFiles})
	a.waitReady()
	if got := readBelow(t, c.Process.Pid, "/etc/resolv.conf"); got != attachFiles[0].Content {
		t.Errorf("resolv.conf: %q", got)
	}
	checkChanges(t, &a.asker, c.Process.Pid)
	a.changed(Change{Files: []plumb.File{{Path: "/etc/resolv.conf", Content: "x\n"}, {Path: "/etc/hosts", Content: "y\n"}}})
	// The hosts were not given at the start.
	if r, h := readBelow(t, c.Process.Pid, "/etc/resolv.conf"), readBelow(t, c.Process.Pid, "/etc/hosts"); r != "x\n" || h != "theirs\n" {
		t.Errorf("resolv.conf %q, hosts %q", r, h)
	}
	a.changed(Change{Signal: syscall.SIGKILL})
	a.ended()
}

// TestAttachFilesMissing: a container without a resolv.conf, as podman's without a network are, gets one.
func TestAttachFilesMissing(t *testing.T) {
	c := ownedContainer(t, ownEtc+"rm /etc/resolv.conf; umask 077; ")
	a := startAttach(t, AttachConfig{PID: c.Process.Pid, Files: attachFiles})
	a.waitReady()
	if got := readBelow(t, c.Process.Pid, "/etc/resolv.conf"); got != attachFiles[0].Content {
		t.Errorf("resolv.conf: %q", got)
	}
}

// TestAttachFilesHostile: whatever a container has in place of its files, nothing but a file of its own is written,
// and the network works all the same (LU-19).
func TestAttachFilesHostile(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	for name, setup := range map[string]string{
		"link out":         `ln -sf ` + canary + ` /etc/resolv.conf`,
		"link to the root": `mkdir /etc/x; mount --bind / /etc/x; ln -sf /etc/x` + canary + ` /etc/resolv.conf`,
		"directory link":   `ln -s ` + filepath.Dir(canary) + ` /etc/d; rm /etc/resolv.conf; ln -s d/canary /etc/resolv.conf`,
		"FIFO":             `rm /etc/resolv.conf; mkfifo /etc/resolv.conf`,
		"device":           `mount --bind /dev/zero /etc/resolv.conf`,
		"proc":             `mount --bind /proc/self/comm /etc/resolv.conf`,
		"directory":        `rm /etc/resolv.conf; mkdir /etc/resolv.conf`,
		"read-only":        `mount -o remount,ro /etc`,
		"the host's":       `umount /etc`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(canary, []byte("untouched\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			host, err := os.ReadFile("/etc/resolv.conf")
			if err != nil {
				t.Fatal(err)
			}
			c := ownedContainer(t, ownEtc+setup+"; ")
			a := startAttach(t, AttachConfig{PID: c.Process.Pid, Files: attachFiles})
			a.waitReady()
			if b, err := os.ReadFile(canary); err != nil || string(b) != "untouched\n" {
				t.Errorf("the canary is now %q, %v", b, err)
			}
			if b, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(b) != string(host) {
				t.Errorf("the host's file is now %q, %v", b, err)
			}
			wantInside(t, c.Process.Pid, devices, "eth0 ")
		})
	}
}

// TestWriteBelowFlipped: a path that flips between a file and a link out never leads out (LU-19).
func TestWriteBelowFlipped(t *testing.T) {
	dir, canary := t.TempDir(), filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/etc", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/etc/resolv.conf", nil, 0o600),
		os.Symlink(canary, dir+"/etc/link")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, dir+"/etc/link", unix.AT_FDCWD, dir+"/etc/resolv.conf", unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	written := 0
	for range 10000 {
		if writeBelow(root, attachFiles) == nil {
			written++
		}
	}
	close(stop)
	wg.Wait()
	if b, err := os.ReadFile(canary); err != nil || string(b) != "untouched" {
		t.Errorf("the canary is now %q, %v", b, err)
	}
	if written == 0 || written == 10000 {
		t.Errorf("%d of 10000 were written: the flipping was not seen", written)
	}
}

package shim

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
)

// Hosts whose /etc is set up in many ways. Each is a mount namespace with an /etc of its own, in which the
// shim is run; the machine's /etc is not touched.

var ownFiles = []plumb.File{
	{Path: "/etc/resolv.conf", Content: "ours resolv\n"}, {Path: "/etc/hosts", Content: "ours hosts\n"},
	{Path: "/etc/hostname", Content: "ours hostname\n"},
}

// onHost runs setup in a new mount namespace with a tmpfs on /etc and /run, then script with $SHIM standing
// for a sandbox that runs command.
func onHost(t *testing.T, setup, script string, tc testConfig) string {
	t.Helper()
	b, err := json.Marshal(tc)
	if err != nil {
		t.Fatal(err)
	}
	const base = `set -e
		mount -t tmpfs t /etc; mount -t tmpfs t /run
		echo theirs hosts > /etc/hosts; echo theirs hostname > /etc/hostname
		mkdir /etc/dir; echo kept > /etc/dir/file; echo kept > /etc/other; ln -s ../other /etc/dir/link; ln -s other /etc/link
	`
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", base+setup+"\n"+script, "sh",
		self(t), shimRole, string(b))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A script that fails leaves what it started to the pipe.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return string(out)
}

func TestFilesOverTheHosts(t *testing.T) {
	const see = `cat /etc/resolv.conf /etc/hosts /etc/hostname /etc/dir/file /etc/dir/link /etc/link /etc/other
		stat -L -c '%a' /etc/resolv.conf /etc/hosts /etc/hostname
		grep -c ' /tmp ' /proc/self/mountinfo
		echo changed > /etc/resolv.conf; cat /etc/resolv.conf; echo changed > /etc/hosts`
	const want = "ours resolv\nours hosts\nours hostname\nkept\nkept\nkept\nkept\n644\n644\n644\n0\nchanged\n"
	const theirs = `; echo theirs resolv > `
	tests := []struct{ name, setup, after string }{
		{"regular file", theirs + "/etc/resolv.conf", "theirs resolv"},
		{"systemd-resolved", `; mkdir -p /run/systemd/resolve; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf` +
			theirs + "/run/systemd/resolve/stub-resolv.conf", "theirs resolv"},
		{"NixOS", `; mkdir -p /etc/static /run/store; rm /etc/hosts; ln -s /etc/static/hosts /etc/hosts; ln -s /run/store/hosts /etc/static/hosts
			echo theirs hosts > /run/store/hosts; ln -s /run/resolvconf /etc/resolv.conf` + theirs + "/run/resolvconf", "theirs resolv"},
		{"dangling link", `; ln -s /run/NetworkManager/resolv.conf /etc/resolv.conf`, ""},
		{"missing", ``, ""},
		{"all missing", `; rm /etc/hosts /etc/hostname; touch /etc/hosts.was`, ""},
		{"read-only", theirs + "/etc/resolv.conf; mount -o remount,ro,bind /etc", "theirs resolv"},
		{"read-only and missing", `; mount -o remount,ro,bind /etc`, ""},
		{"device", `; ln -s /dev/null /etc/resolv.conf`, ""},
		{"in proc", `; ln -s /proc/self/status /etc/resolv.conf`, "Name:\tcat"},
		{"directory", `; mkdir /run/d; ln -s /run/d /etc/resolv.conf`, ""},
		{"loop of links", `; ln -s resolv.conf /etc/resolv.conf`, ""},
		{"in tmp", `; d=$(mktemp -d); ln -s $d/r /etc/resolv.conf` + theirs + "$d/r", "theirs resolv"},
		{"unreadable directory", `; mkdir -m 0 /etc/secret` + theirs + "/etc/resolv.conf", "theirs resolv"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tc := testConfig{Command: sh("umask 077; " + see), Files: ownFiles}
			out := onHost(t, strings.TrimPrefix(tt.setup, "; "), `umask 077; "$@"; echo after; cat /etc/resolv.conf 2>/dev/null || :; cat /etc/hosts 2>/dev/null || :`, tc)
			inside, after, _ := strings.Cut(out, "after\n")
			if inside != want {
				t.Errorf("inside:\n%s\nwant:\n%s", inside, want)
			}
			if !strings.HasPrefix(after, tt.after) || strings.Contains(after, "ours") || strings.Contains(after, "changed") {
				t.Errorf("on the host afterwards:\n%s", after)
			}
			if !strings.Contains(after, "theirs hosts\n") && tt.name != "all missing" {
				t.Errorf("hosts on the host afterwards:\n%s", after)
			}
		})
	}
}

// TestKeepsMapWritesFiles: the files are made by a user who is not root inside, too.
func TestKeepMapFiles(t *testing.T) {
	out := onHost(t, "echo theirs > /etc/resolv.conf", `"$@"`, testConfig{Command: sh("cat /etc/resolv.conf /etc/hosts"), Map: MapKeep, Files: ownFiles})
	if out != "ours resolv\nours hosts\n" {
		t.Errorf("got %q", out)
	}
}

// TestFilesStay: the host replaces its files the way resolver daemons do, and the sandbox keeps its own.
func TestFilesStay(t *testing.T) {
	tests := []struct{ name, setup, replace string }{
		{"rename", "echo a > /etc/resolv.conf", "echo b > /etc/new; mv /etc/new /etc/resolv.conf"},
		{"rename of the target", "mkdir /run/d; ln -s /run/d/r /etc/resolv.conf; echo a > /run/d/r", "echo b > /run/d/new; mv /run/d/new /run/d/r"},
		{"remove and write", "echo a > /etc/resolv.conf", "rm /etc/resolv.conf; echo b > /etc/resolv.conf"},
		{"file to link", "echo a > /etc/resolv.conf", "echo b > /run/r; ln -sf /run/r /etc/resolv.conf"},
		{"link to link", "echo a > /run/r; ln -s /run/r /etc/resolv.conf", "echo b > /run/r2; ln -sf /run/r2 /etc/resolv.conf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// The mount is back a moment after the host's change, twice; the first time, after guardDelay.
			inside := sh(`cat /etc/resolv.conf > /run/first
				for i in 1 2; do
					echo ready > /run/out; read x < /run/in
					n=0; while ! grep -q ours /etc/resolv.conf; do n=$((n+1)); [ $n = 20000 ] && break; done
					cat /etc/resolv.conf; echo more >> /etc/resolv.conf
				done`)
			script := `mkfifo /run/in /run/out; "$@" &
				for i in 1 2; do read x < /run/out; ` + tt.replace + `; echo go > /run/in; done; wait; cat /etc/resolv.conf`
			out := onHost(t, tt.setup, script, testConfig{Command: inside, Files: ownFiles})
			if want := "ours resolv\nours resolv\nmore\nb\n"; out != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	}
}

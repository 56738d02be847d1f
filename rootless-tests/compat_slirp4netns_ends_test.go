package rootlesstests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// However it ends, the caller sees what it sees of the original, and nothing is left.
func TestSlirp4netnsEnds(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for name, end := range map[string]func(*served) error{
		"closed exit-fd": func(s *served) error { return s.slirp.exit.Close() },
		"SIGTERM":        func(s *served) error { return s.slirp.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGINT":         func(s *served) error { return s.slirp.cmd.Process.Signal(syscall.SIGINT) },
		"SIGKILL":        func(s *served) error { return s.slirp.cmd.Process.Kill() },
		"SIGWINCH is nothing": func(s *served) error {
			return errors.Join(s.slirp.cmd.Process.Signal(syscall.SIGWINCH), s.slirp.exit.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			codes := map[maker]int{}
			for _, m := range makers {
				api := filepath.Join(t.TempDir(), "api")
				s := serveNamespace(t, r, m, nil, "-c", "-r", "3", "-e", "4", "-a", api, "PID", "tap0")
				port := nextPort()
				if a := askAPI(t, api, fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":%d,"guest_port":80}}`, port)); !strings.Contains(a, "return") {
					t.Fatal(a)
				}
				pids := append(below(s.slirp.cmd.Process.Pid), s.slirp.cmd.Process.Pid)
				if err := end(s); err != nil {
					t.Fatal(err)
				}
				codes[m] = s.slirp.exitCode(t)
				rig.WaitFor(t, rig.Patience, "end of all processes", func() bool {
					for _, p := range pids {
						if alive(p) {
							return false
						}
					}
					return true
				})
				rig.WaitFor(t, rig.Patience, "end of the port", func() bool { return len(listenersOn(t, port)) == 0 })
				rig.WaitFor(t, rig.Patience, "end of the interface", func() bool { return !strings.Contains(s.Run(t, "ip", "-o", "link"), "tap0") })
				_, err := os.Stat(api)
				if m == ours && codes[m] == 0 && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the API socket stays: %v", err)
				}
			}
			if codes[original] != codes[ours] {
				t.Errorf("ours ends with %d, the original with %d", codes[ours], codes[original])
			}
		})
	}
}

// Any event at exit-fd is the end, as the original's manual says; 1.2.0 waits for the other end to be closed.
func TestSlirp4netnsExitData(t *testing.T) {
	t.Parallel()
	s := serveNamespace(t, rig.Start(t), ours, nil, "-c", "-r", "3", "-e", "4", "PID", "tap0")
	if _, err := s.slirp.exit.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if code := s.slirp.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A TAP that somebody else made stays when the program has ended, as rootlesskit expects.
func TestSlirp4netnsLeavesTAP(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, m := range makers {
		s := serveNamespace(t, r, m, func(n *rig.Node) { n.Run(t, "ip", "tuntap", "add", "name", "tap0", "mode", "tap") }, "-r", "3", "PID", "tap0")
		if err := s.slirp.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.slirp.exitCode(t)
		if out := s.Run(t, "ip", "-o", "link"); !strings.Contains(out, "tap0") {
			t.Errorf("%s: the interface is gone: %s", m, out)
		}
	}
}

// The process that was started is control: killing the datapath costs flows, not the network.
func TestSlirp4netnsDatapathKilled(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	server := serveWhoami(t, r.X1, at(rig.X1v4, nextPort()))
	s := serveNamespace(t, r, ours, nil, "-c", "-r", "3", "-e", "4", "PID", "tap0")
	p := &rig.Process{Cmd: s.slirp.cmd, Stdout: s.slirp.stdout, Stderr: s.slirp.stderr}
	if err := syscall.Kill(p.Datapath(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, rig.Patience, "another datapath", func() bool { return strings.HasPrefix(askWhoami(t, s.Node, "tcp", server), "seen as") })
}

// It works under every way to be called by its name: a link, a copy, a relative path.
func TestSlirp4netnsPlaced(t *testing.T) {
	t.Parallel()
	rig.Start(t)
	dir := t.TempDir()
	b, err := os.ReadFile(rig.Usernet)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/usernet", b, 0o755), os.Symlink("usernet", dir+"/slirp4netns"),
		os.Mkdir(dir+"/copy", 0o755), os.WriteFile(dir+"/copy/slirp4netns", b, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{dir + "/slirp4netns", dir + "/copy/slirp4netns", "./slirp4netns"} {
		cmd := exec.Command(program, "--version")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "slirp4netns version ") {
			t.Errorf("%s: %s, %v", program, out, err)
		}
	}
	passt := exec.Command(rig.Usernet)
	passt.Args = []string{"/usr/bin/passt", "--fd", "3"}
	out, err := passt.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "call it as pasta or slirp4netns") {
		t.Errorf("passt: %s, %v", out, err)
	}
}

// A BESS client, such as User Mode Linux, sees the same network.
func TestSlirp4netnsBESS(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	server := serveWhoami(t, r.X1, at(rig.X1v4, nextPort()))
	for _, m := range makers {
		path := filepath.Join(t.TempDir(), "bess")
		s := startSlirp(t, slirp4netnsOf(t, m), nil, "--target-type=bess", "-r", "3", "-e", "4", path)
		var c *net.UnixConn
		rig.WaitFor(t, rig.Patience, "BESS socket", func() (ok bool) {
			var err error
			c, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
			return err == nil
		})
		defer c.Close()
		s.wantReady(t)
		if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
			t.Fatal(err)
		}
		own := l2.MAC{2, 0, 0, 0, 0, 1}
		send := func(f l2.Frame) {
			if _, err := c.Write(packettest.Bytes(f)); err != nil {
				t.Fatal(err)
			}
		}
		receive := func(want func(b []byte) bool) {
			t.Helper()
			for buf := make([]byte, 1<<16); ; {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatalf("%s: %v", m, err)
				}
				if want(buf[:n]) {
					return
				}
			}
		}
		gateway := l2.MAC{0x52, 0x55, 10, 0, 2, 2}
		send(packettest.ARP(1, own, rig.SandboxAddr4, l2.MAC{}, rig.Gateway4))
		receive(func(b []byte) bool {
			return len(b) >= 42 && l2.MAC(b[0:6]) == own && l2.MAC(b[6:12]) == gateway && b[12] == 8 && b[13] == 6 && b[21] == 2
		})
		send(packettest.Frame(own, gateway, packettest.UDP(at(rig.SandboxAddr4, 4000), server, []byte("who am I?"))))
		receive(func(b []byte) bool { return strings.Contains(string(b), rig.H4.String()) })
		s.exit.Close()
		if code := s.exitCode(t); code != 0 {
			t.Errorf("%s: exit code %d", m, code)
		}
	}
}

// --netns-type=tapfd, which the original has since 1.3.0: the caller opens the TAP, here without a virtio-net header.
func TestSlirp4netnsTAPFD(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb, c := container(t, r)
	t.Cleanup(c.Kill)
	// Who opens it becomes the program, which is thereby in the namespace itself: there is no outside, but a gateway.
	script := writeScript(t, fmt.Sprintf(`exec nsenter -t %d -U -n --preserve-credentials perl -e '
$^F = 255; # what is opened stays open for the program
open(TUN, "+<", "/dev/net/tun") or die "open: $!";
my $request = pack("a16 S x22", "tap0", 0x1002); # IFF_TAP, IFF_NO_PI
ioctl(TUN, 0x400454ca, $request) or die "TUNSETIFF: $!";
system("ip link set tap0 up && ip addr add 10.0.2.100/24 dev tap0 && ip route add default via 10.0.2.2") == 0 or die;
exec($ARGV[0], "-r", "3", "-e", "4", "--netns-type=tapfd", fileno(TUN)) or die "exec: $!";
' "$1"
`, c.PID))
	s := startSlirp(t, script, nil, slirp4netnsOf(t, ours))
	s.wantReady(t)
	if got := askPing(t, sb.Node, rig.Gateway4); got != "answers" {
		t.Errorf("ping of gateway: %s", got)
	}
	s.exit.Close()
	if code := s.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

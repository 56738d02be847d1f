//go:build !cgo

package confine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probes are what a confined test process can be asked to try. Each answers with results by name.
var probes = map[string]func() map[string]string{
	"denied": probeDenied,
	"work":   probeWork,
	"exec":   func() map[string]string { return map[string]string{"exec": text(syscall.Exec("/bin/true", nil, nil))} },
}

func text(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func call(nr uintptr, args ...uintptr) string {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return text(errno)
	}
	return "ok"
}

// probeDenied tries to break out (LU-18).
func probeDenied() map[string]string {
	path, _ := unix.BytePtrFromString("/")
	p := uintptr(unsafe.Pointer(path))
	m := map[string]string{
		"execve":     call(unix.SYS_EXECVE, p, 0, 0),
		"execveat":   call(unix.SYS_EXECVEAT, 0, p, 0, 0, 0),
		"openat":     call(unix.SYS_OPENAT, 0, p, 0, 0),
		"openat2":    call(unix.SYS_OPENAT2, 0, p, 0, 0),
		"ptrace":     call(unix.SYS_PTRACE, unix.PTRACE_TRACEME),
		"vm_readv":   call(unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0),
		"kill":       call(unix.SYS_KILL, ^uintptr(0), 0),
		"mount":      call(unix.SYS_MOUNT, p, p, p, unix.MS_BIND, 0),
		"pivot_root": call(unix.SYS_PIVOT_ROOT, p, p),
		"chroot":     call(unix.SYS_CHROOT, p),
		"unshare":    call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"setns":      call(unix.SYS_SETNS, 0, 0),
		"bpf":        call(unix.SYS_BPF, 0, 0, 0),
		"keyctl":     call(unix.SYS_KEYCTL, 0, 0),
		"io_uring":   call(unix.SYS_IO_URING_SETUP, 1, 0),
		"userfault":  call(unix.SYS_USERFAULTFD, 0),
		"memfd":      call(unix.SYS_MEMFD_CREATE, p, 0),
		"perf":       call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0),
		"clone3":     call(unix.SYS_CLONE3, 0, 0),
		"seccomp":    call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0),
		"setuid":     call(unix.SYS_SETUID, 0),
		// Allowed calls with arguments that are not.
		"clone of a process":   call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)),
		"clone of a namespace": call(unix.SYS_CLONE, goThread|unix.CLONE_NEWUSER),
		"executable mmap":      call(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0),
		"executable mprotect":  call(unix.SYS_MPROTECT, 0, 4096, unix.PROT_EXEC),
		"TIOCSTI":              call(unix.SYS_IOCTL, 2, unix.TIOCSTI, 0),
		"TUNSETIFF":            call(unix.SYS_IOCTL, 2, unix.TUNSETIFF, 0),
		"F_SETOWN":             call(unix.SYS_FCNTL, 2, unix.F_SETOWN, 1),
		"prctl dumpable":       call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1),
		"raise a limit":        call(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, p, 0),
		"limits of another":    call(unix.SYS_PRLIMIT64, 2, unix.RLIMIT_CORE, 0, p),
	}
	for name, s := range map[string][3]uintptr{
		"netlink": {unix.AF_NETLINK, unix.SOCK_RAW, 0},
		"packet":  {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"vsock":   {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		"alg":     {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		"unix":    {unix.AF_UNIX, unix.SOCK_STREAM, 0},
		"raw":     {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"sctp":    {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
		"mptcp":   {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
	} {
		m["socket "+name] = call(unix.SYS_SOCKET, s[0], s[1], s[2])
	}
	return m
}

// probeWork does what a datapath does: sockets of all kinds it uses, relays, threads, garbage.
func probeWork() map[string]string {
	m := map[string]string{
		"relay": text(relay("127.0.0.1:0")), "relay6": text(relay("[::1]:0")),
		"udp": text(datagram("127.0.0.1:0")), "udp6": text(datagram("[::1]:0")),
		"threads": text(threads()), "limits": text(unix.Getrlimit(unix.RLIMIT_NOFILE, new(unix.Rlimit))),
		// ping sockets are allowed here; the host may still refuse them by group, with EACCES
		"ping":  call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP),
		"ping6": call(unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6),
	}
	return m
}

// listen makes a listener as control does, whose net.Listen would read somaxconn from /proc.
func listen(at string) (net.Listener, error) {
	a := netip.MustParseAddrPort(at)
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if a.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := unix.Bind(fd, sa); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 16); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}

// relay sends 100 connections through a splicing relay to an echo server.
func relay(at string) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	echo, err := listen(at)
	if err != nil {
		return err
	}
	defer echo.Close()
	front, err := listen(at)
	if err != nil {
		return err
	}
	defer front.Close()
	serve := func(l net.Listener, f func(c *net.TCPConn)) {
		wg.Go(func() {
			for range 100 {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { defer c.Close(); f(c.(*net.TCPConn)) })
			}
		})
	}
	serve(echo, func(c *net.TCPConn) { io.Copy(c, c) })
	serve(front, func(c *net.TCPConn) {
		up, err := net.Dial("tcp", echo.Addr().String())
		if err != nil {
			return
		}
		defer up.Close()
		wg.Go(func() { io.Copy(up, c); up.(*net.TCPConn).CloseWrite() })
		io.Copy(c, up)
	})
	for range 100 {
		c, err := net.DialTimeout("tcp", front.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		c.Close()
		if err != nil || string(b) != "hello" {
			return fmt.Errorf("relayed %q: %w", b, err)
		}
	}
	return nil
}

func datagram(at string) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.WriteTo([]byte("x"), c.LocalAddr()); err != nil {
		return err
	}
	_, _, err = c.ReadFrom(make([]byte, 8))
	return err
}

// threads makes the runtime clone, collect and preempt.
func threads() error {
	runtime.GOMAXPROCS(4)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 50 {
		wg.Go(func() {
			runtime.LockOSThread()
			<-start
			for range 10 {
				_ = make([]byte, 1<<20)
			}
		})
	}
	close(start)
	wg.Wait()
	runtime.GC()
	return nil
}

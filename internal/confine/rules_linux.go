package confine

import "golang.org/x/sys/unix"

// plain are the calls allowed with any arguments. Those of the first group take a descriptor,
// and the process has none but sockets, TAPs, pipes, its log and a capture file; those of the second act on the
// process's own memory, threads and clock.
var plain = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_CLOSE,
	unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_RECVMMSG, unix.SYS_SENDMMSG,
	unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	unix.SYS_SPLICE, unix.SYS_PIPE2, unix.SYS_FSTAT,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_PPOLL,

	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_FUTEX,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETRANDOM, unix.SYS_GETRUSAGE, unix.SYS_GETRLIMIT, unix.SYS_UNAME,
}

// goThread are the flags with which the Go runtime makes a thread (runtime/os_linux.go, cloneFlags), to which
// amd64 adds CLONE_SETTLS in assembly (runtime/sys_linux_amd64.s, clone). Anything else is a
// process or a namespace. clone3 passes its flags in memory, where no filter sees them, and is not allowed.
const goThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

const all = ^uint64(0)

// is is a test for one value of a 32-bit argument; the kernel ignores the upper half of those too.
func is(arg uint32, v uint32) test { return test{arg, 0xffffffff, uint64(v)} }

// oneOf is a rule that allows a call when a 32-bit argument has one of the values.
func oneOf(nr, arg uint32, values ...uint32) rule {
	r := rule{nr: nr}
	for _, v := range values {
		r.any = append(r.any, tests{is(arg, v)})
	}
	return r
}

// allowed is the whole list.
func allowed() []rule {
	var rules []rule
	for _, nr := range plain {
		rules = append(rules, rule{nr: nr})
	}
	noExec := tests{{arg: 2, mask: unix.PROT_EXEC}}
	return append(rules,
		sockets(),
		rule{nr: unix.SYS_CLONE, any: []tests{{{0, all &^ unix.CLONE_SETTLS, goThread}}}},
		// Memory is never made executable: nothing in the process generates code.
		rule{nr: unix.SYS_MMAP, any: []tests{noExec}},
		rule{nr: unix.SYS_MPROTECT, any: []tests{noExec}},
		// The runtime names its mappings.
		rule{nr: unix.SYS_PRCTL, any: []tests{{is(0, unix.PR_SET_VMA), {1, all, unix.PR_SET_VMA_ANON_NAME}}}},
		// Its own limits, to read: the budget of flows follows from the descriptors there may be.
		rule{nr: unix.SYS_PRLIMIT64, any: []tests{{is(0, 0), {2, all, 0}}}},
		oneOf(unix.SYS_FCNTL, 1, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC,
			unix.F_GETPIPE_SZ, unix.F_SETPIPE_SZ),
		// What is queued in a socket (in, out), the urgent mark, and the offloads of a TAP. Nothing of a terminal, which
		// the log may be.
		oneOf(unix.SYS_IOCTL, 1, unix.SIOCINQ, unix.SIOCOUTQ, siocATMARK, unix.TUNSETOFFLOAD, unix.TUNGETIFF),
	)
}

// siocATMARK is SIOCATMARK of asm-generic/sockios.h.
const siocATMARK = 0x8905

// sockets allows what TCP, UDP and ping sockets are made with. Netlink, packet, vsock, crypto and unix
// sockets are kernel interfaces of their own, each with a history of holes; raw sockets and Multipath TCP nobody here needs.
func sockets() rule {
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	r := rule{nr: unix.SYS_SOCKET}
	for _, s := range []struct{ family, kind, proto uint32 }{
		{unix.AF_INET, unix.SOCK_STREAM, 0}, {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET6, unix.SOCK_STREAM, 0}, {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_DGRAM, 0}, {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0}, {unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
		{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6},
	} {
		r.any = append(r.any, tests{
			is(0, s.family),
			{1, 0xffffffff &^ flags, uint64(s.kind)},
			is(2, s.proto),
		})
	}
	return r
}

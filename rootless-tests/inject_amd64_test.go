package rootlesstests

// LU-18 asks what a datapath could do that somebody has taken over. So somebody takes it over: a process of root
// stops one of its threads with ptrace(2), has it make system calls one after another, and lets it go.
//
// A thread that waits in the kernel stands behind its system call instruction. Going back two bytes, with another
// number and other arguments in the registers, and stepping once, makes another call. Putting the registers back
// has the kernel restart the first. The arguments are numbers; pointers are null, so that a call the filter lets
// through fails with EFAULT where one it stops fails with EPERM.

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// injectRole is the first argument that makes the test binary the process of root; the second is a pid.
const injectRole = "__inject"

func init() {
	if len(os.Args) != 3 || os.Args[1] != injectRole {
		return
	}
	pid, err := strconv.Atoi(os.Args[2])
	for tries := 0; err == nil; tries++ {
		if err = injectAll(pid); err == nil {
			os.Exit(0)
		}
		if errors.Is(err, errRunning) && tries < 1000 {
			err = nil
		}
	}
	if err != nil {
		fmt.Println("inject:", err)
		os.Exit(1)
	}
}

// errRunning says that the thread was about its own business when it was stopped; the next time it may wait.
var errRunning = errors.New("the thread does not wait in a system call")

// injected is a system call.
type injected struct {
	name    string
	nr      uint64
	args    [6]uint64
	allowed bool
}

// breakOuts are the calls, in the order they are made. The allowed ones show that the method works.
var breakOuts = []injected{
	{"getpid", unix.SYS_GETPID, [6]uint64{}, true},
	{"socket(INET,DGRAM)", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}, true},
	{"execve", unix.SYS_EXECVE, [6]uint64{}, false},
	{"execveat", unix.SYS_EXECVEAT, [6]uint64{}, false},
	{"open", unix.SYS_OPEN, [6]uint64{}, false},
	{"openat", unix.SYS_OPENAT, [6]uint64{}, false},
	{"openat2", unix.SYS_OPENAT2, [6]uint64{}, false},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uint64{}, false},
	{"memfd_create", unix.SYS_MEMFD_CREATE, [6]uint64{}, false},
	{"ptrace", unix.SYS_PTRACE, [6]uint64{unix.PTRACE_TRACEME}, false},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uint64{1}, false},
	{"kill", unix.SYS_KILL, [6]uint64{1}, false},
	{"mount", unix.SYS_MOUNT, [6]uint64{}, false},
	{"umount2", unix.SYS_UMOUNT2, [6]uint64{}, false},
	{"fsopen", unix.SYS_FSOPEN, [6]uint64{}, false},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uint64{}, false},
	{"chroot", unix.SYS_CHROOT, [6]uint64{}, false},
	{"unshare", unix.SYS_UNSHARE, [6]uint64{unix.CLONE_NEWNET}, false},
	{"setns", unix.SYS_SETNS, [6]uint64{3}, false},
	{"clone(SIGCHLD)", unix.SYS_CLONE, [6]uint64{uint64(unix.SIGCHLD)}, false},
	{"clone(NEWUSER)", unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, false},
	{"fork", unix.SYS_FORK, [6]uint64{}, false},
	{"vfork", unix.SYS_VFORK, [6]uint64{}, false},
	{"socket(NETLINK)", unix.SYS_SOCKET, [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW}, false},
	{"socket(PACKET)", unix.SYS_SOCKET, [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, false},
	{"socket(VSOCK)", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, false},
	{"socket(ALG)", unix.SYS_SOCKET, [6]uint64{unix.AF_ALG, unix.SOCK_SEQPACKET}, false},
	// Without one it cannot connect to an abstract socket either (LU-03).
	{"socket(UNIX)", unix.SYS_SOCKET, [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM}, false},
	{"socket(INET,RAW)", unix.SYS_SOCKET, [6]uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, false},
	{"mmap(EXEC)", unix.SYS_MMAP, [6]uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, ^uint64(0)}, false},
	{"bpf", unix.SYS_BPF, [6]uint64{}, false},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uint64{1}, false},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uint64{}, false},
	{"userfaultfd", unix.SYS_USERFAULTFD, [6]uint64{}, false},
	{"keyctl", unix.SYS_KEYCTL, [6]uint64{}, false},
	{"init_module", unix.SYS_INIT_MODULE, [6]uint64{}, false},
	{"prctl(SET_DUMPABLE)", unix.SYS_PRCTL, [6]uint64{unix.PR_SET_DUMPABLE, 1}, false},
	{"prlimit64", unix.SYS_PRLIMIT64, [6]uint64{0, unix.RLIMIT_NOFILE, 1}, false},
	{"ioctl(TIOCSTI)", unix.SYS_IOCTL, [6]uint64{0, unix.TIOCSTI}, false},
	{"setuid", unix.SYS_SETUID, [6]uint64{}, false},
}

// LU-18: calls that lead out of the datapath fail with EPERM in the running process, which is none the worse for them.
// LU-03, second half: it has no way to an abstract socket.
func TestLU18(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	wantAlive(t, r, sb, datapath)
	out := r.H.Run(t, fmt.Sprintf("/proc/%d/exe", os.Getpid()), injectRole, strconv.Itoa(datapath))
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = result
	}
	for _, c := range breakOuts {
		switch result, made := got[c.name]; {
		case !made:
			t.Errorf("%s was not made:\n%s", c.name, out)
		case c.allowed && strings.HasPrefix(result, "-"):
			t.Errorf("%s: %s, want it to work", c.name, result)
		case !c.allowed && result != "-"+strconv.Itoa(int(unix.EPERM)):
			t.Errorf("%s: %s, want EPERM", c.name, result)
		}
	}
	wantAlive(t, r, sb, datapath)
}

// injectAll has the first thread of a process make breakOuts and prints the name and result of each.
func injectAll(pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceAttach(pid); err != nil {
		return fmt.Errorf("attach to %d: %w", pid, err)
	}
	if err := waitStop(pid); err != nil {
		return err
	}
	var saved unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &saved); err != nil {
		return fmt.Errorf("get registers: %w", err)
	}
	err := checkInstruction(pid, saved.Rip-2)
	for i := 0; i < len(breakOuts) && err == nil; i++ {
		var result int64
		if result, err = inject(pid, saved, breakOuts[i].nr, breakOuts[i].args); err == nil {
			fmt.Println(breakOuts[i].name, result)
			if breakOuts[i].nr == unix.SYS_SOCKET && result >= 0 {
				_, err = inject(pid, saved, unix.SYS_CLOSE, [6]uint64{uint64(result)})
			}
		}
	}
	return errors.Join(err, unix.PtraceSetRegs(pid, &saved), unix.PtraceDetach(pid))
}

// checkInstruction makes sure that there is a system call instruction.
func checkInstruction(pid int, at uint64) error {
	var code [2]byte
	if _, err := unix.PtracePeekText(pid, uintptr(at), code[:]); err != nil {
		return fmt.Errorf("read instruction: %w", err)
	}
	if code != [2]byte{0x0f, 0x05} {
		return errRunning
	}
	return nil
}

// inject makes one call with the registers of the one that the thread waits in.
func inject(pid int, regs unix.PtraceRegs, nr uint64, args [6]uint64) (int64, error) {
	regs.Rip -= 2
	regs.Rax, regs.Orig_rax = nr, ^uint64(0)
	regs.Rdi, regs.Rsi, regs.Rdx, regs.R10, regs.R8, regs.R9 = args[0], args[1], args[2], args[3], args[4], args[5]
	if err := unix.PtraceSetRegs(pid, &regs); err != nil {
		return 0, fmt.Errorf("set registers: %w", err)
	}
	if err := unix.PtraceSingleStep(pid); err != nil {
		return 0, fmt.Errorf("step: %w", err)
	}
	if err := waitStop(pid); err != nil {
		return 0, err
	}
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return 0, fmt.Errorf("get registers: %w", err)
	}
	return int64(regs.Rax), nil
}

// waitStop waits until the thread has stopped.
func waitStop(pid int) error {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for thread %d: %w", pid, err)
		case !ws.Stopped():
			return fmt.Errorf("thread %d has ended, status %#x", pid, uint32(ws))
		default:
			return nil
		}
	}
}

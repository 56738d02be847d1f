// Package confine takes away from a process everything that carrying packets does not need.
//
// # Theory of operation
//
// The datapath parses what hostile containers and hostile hosts send it. Should one of them ever
// take it over, it must find nothing: no file, no other process, no capability, no kernel interface
// beyond plain sockets. Each layer below would be enough against some attacks; together they do not depend
// on one another being without a hole.
//
// Part of it can only be done when a process is cloned, so it begins in the parent:
//
//	Start (parent)    clone with new user, mount, IPC, UTS and PID namespaces; the network namespace
//	                  stays the host's, that is what the process is for. One uid and one gid are mapped,
//	                  its own.
//	Enter (child)  1  bounding set emptied; limits: open files up to the hard limit, no core dump
//	               2  inherited descriptors: all but the intended ones closed (LU-14)
//	               3  root: an empty, read-only tmpfs, the host's mounts detached (pivot_root)
//	               4  not dumpable: no ptrace, no /proc/PID/mem for processes of the same user
//	               5  all capabilities dropped
//	               6  no_new_privs and Landlock: no path, no abstract socket, no signal outside
//	               7  seccomp: an allow-list of system calls with their arguments, on all threads
//
// The order is forced: each step uses what a later one takes away. Namespaces cannot be entered by
// a running Go program, which has threads before main, hence clone and exec; the steps of the child act on all
// threads, by AllThreadsSyscall or by the kernel's own synchronisation.
//
// # Fallback
//
// Hosts forbid user namespaces to ordinary users (kernel.unprivileged_userns_clone=0,
// user.max_user_namespaces=0) or take away the capabilities in them (AppArmor on Ubuntu). Then Start clones
// without, or the mounts of step 3 fail, and the rest goes on: Landlock denies the paths that are
// still there. An old kernel may lack Landlock. The Report says what is on and why the rest is not.
// Capabilities, no_new_privs and seccomp have no fallback: where one of them fails, so does Enter, because
// every kernel we support has them.
//
// What not dumpable cannot do: the user who started the process owns its user namespace and so may look
// into it from outside. It keeps out everybody where there is no such namespace, and in it whatever runs there.
//
// # Cost
//
// Measured on two cores with kernel 6.18: Enter takes 1.7 ms at best and 2 to 3 usually. The bounding set is more
// than half of it (41 calls, each of which stops all threads), the filter 0.2, the root 0.2, all else
// 0.2. Threads make the difference, so Enter comes first in the role's main, when there are three or four.
//
// # Why not a library for the filter
//
// elastic/go-seccomp-bpf v1.6.0 goes on to the next rule after a mismatch of arguments without loading the
// number again, compares masks as "any bit", and initialises tables of all architectures in every
// process that links it, 0.14 ms and 160 KiB. The 60 lines of bpf.go do neither.
package confine

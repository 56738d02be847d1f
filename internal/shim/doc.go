// Package shim is the parent of a sandboxed command: it makes the namespaces, has the network
// brought to them, and stands between the command and whoever started usernet until the command ends.
//
// # Theory of operation
//
// Two processes of this package stay while a sandbox runs: the shim, on the host, and init, inside.
//
//	 shim (Run)                                   init (Init, hidden role __init)
//	 1 socketpair, clone(USER|NET|NS|UTS) ──────► unmapped, all capabilities by the ambient set
//	 2 the Network is brought up and the
//	   ports are bound, concurrently
//	 3 --map auto: newuidmap, newgidmap
//	   send setup ──────────────────────────────► 4 write uid_map and gid_map (root, keep)
//	                                              5 create the TAPs
//	 6 hand them to the Network ◄──────────── tap, with the descriptor, for each
//	                                              7 addresses, routes, mounts, host name
//	 8 send go, once ports are bound and
//	   the Network has the TAPs ───────────────► 9 drop what CMD must not have, start CMD
//	10 forward signals ─────────────────────────►   deliver to CMD
//	   mirror stops ◄──────────────────────── stopped
//	   pass on changes ────────────────────────►   make them, answer (changes_linux.go)
//	                                             11 CMD ended: kill what it left, exit with its code
//	12 close the network, exit with that code
//
// Steps 2 and 4 to 7 overlap; CMD never runs before both are done.
//
// A sandbox that joins another one's network has its init started by nsenter and unshare (join_linux.go); a
// namespace that somebody else made has no init, and a helper run for each change (attach_linux.go).
//
// # Invariants
//
//   - Nothing outlives the sandbox. Both processes are child subreapers, so a daemon that forks twice
//     stays below init; when init dies it comes to the shim. Init reads the end of the socket when the
//     shim dies of any cause and kills all its descendants until none is left. The shim kills them when
//     init dies first. The namespaces, with mounts and TAP, end with their last process.
//   - CMD holds descriptors 0, 1 and 2 of the caller and no other.
//   - No file of the host is written. Files over /etc are bind mounts of a detached tmpfs, see files_linux.go.
//
// # Signals and the terminal
//
// CMD stays in the shim's process group and session, so the terminal's ^C and ^Z reach shim, init and
// CMD alike. The shim and init survive ^C and ^\; they let ^Z stop them, so the job stops and resumes as
// one. The shim forwards what it is sent by others; SIGINT, SIGQUIT and SIGWINCH only when they cannot
// have come from the terminal, because CMD would otherwise see them twice. When CMD alone stops
// (a program that stops itself), init tells the shim, which stops too, so that the shell sees it.
//
// # Concurrency
//
// Run may be called once per process: it makes the process a subreaper and takes its signals.
package shim

// Package registry lets the commands of one user find that user's running sandboxes and talk to them.
//
// # Theory of operation
//
// A sandbox of whatever network is known by a directory that its shim makes and removes:
//
//	$XDG_RUNTIME_DIR/usernet/         0700, this user's; else /run/user/UID/usernet, /tmp/usernet-UID
//	    sandboxes/
//	        .lock                     held while a directory below is made or removed
//	        web/                      0700, one per sandbox, by its name
//	            lock                  write-locked by the shim for as long as it lives
//	            state.json            what does not change: Entry
//	            control.sock          0600, HTTP and JSON: what does change, ports, counters, the end
//
// The daemon's sockets stand beside sandboxes, so that no name of a sandbox can be one of theirs.
//
// A sandbox lives when its lock is held. The kernel lets go of a lock when its holder dies in any way, so no
// process id is ever trusted, and whoever lists removes what the dead have left. For the same reason a
// sandbox is ended by asking its shim, which knows its own children, and not by kill(2). The locks are
// open file description locks (fcntl(2), F_OFD_SETLK): they can be tested without being taken, so
// that a lister never makes a starting shim believe that its name is in use.
//
// state.json is written last, once the ports are bound. So a sandbox that is listed can be connected to, and
// one that fails to start was never there.
//
// # Trust
//
// Everything below the directory is believed, so the directory must be nobody else's: a symlink, a
// foreign owner, or a group or world that may write is refused, never repaired (LU-04). The way goes through os.Root
// from there on. Names are names of files and are checked before they touch a path (LU-07). The
// server serves the same user only, whatever the modes say (LU-01); see package localhttp.
//
// # Limits
//
// 1 MiB for state.json; those of a client are localhttp's (LU-06).
package registry

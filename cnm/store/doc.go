// Package store keeps the Networks and Endpoints of a user: what it has acknowledged is on the disk, and what is on
// the disk is never believed without a check.
//
// # Theory of operation
//
// Records are JSON under a bucket and a key. All of them are in memory, and are read from there: a list reads no disk.
// A change of a Network goes to the disk first, in one bbolt transaction with two fsyncs, and into memory when it is there.
// Leases, the records of Endpoints, survive the daemon but not the machine, and are a file each (leases.go): a lease is
// acknowledged when the kernel has it. What a change costs does not depend on how many records there are.
//
// bbolt maps its file and trusts every page of it. Its two meta pages have checksums, nothing else does: a page number
// with a flipped bit sends it through other pages or in circles, and a file that was cut short ends the process with
// SIGBUS when what is missing is touched. Three things stand against that:
//
//  1. A file is parsed (parse.go) before bbolt sees it: read, not mapped, every length checked, every page visited
//     once. What comes out is compared with a sum that was written in the same transaction as the records it
//     sums up. Damage anywhere that matters is seen; damage in unused pages is not, and does not matter.
//  2. After a change, but at most once a second, a goroutine reads the file back and parses it, and what it read is
//     the file's copy (FILE.copy, renamed into place). Close does so too, and Open. When the file is damaged, or its copy is
//     newer, the copy is used; the damaged one is kept as FILE.bad-TIME. When both are, there is nothing left but to begin
//     anew, which the log says. So damage costs nothing, or the changes of the last second of a daemon that was killed.
//  3. bbolt runs with faults turned into panics, and panics into errors: a file that somebody shortens under a
//     running daemon costs one failed change. The next one writes the file anew from memory, and so does the
//     goroutine that reads it back.
//
// A change that fails leaves memory as it was. What the disk has then is not known (an fsync that fails may have
// written), so the file is parsed again, and written anew from memory unless it says the same. Where that fails
// too, it is tried again before the next change; only a daemon that is killed in between may find a change
// that it had refused.
//
// bbolt's file does not shrink. Shrink writes one anew that has become mostly room, as after a failure.
//
// # Files
//
//	networks.db               bbolt, 0600, in a directory of 0700
//	networks.db.copy          as it was a moment ago; written without fsync, since it is for damage and not for power cuts
//	networks.db.leases        a directory with a file for each lease
//	networks.db.lock          flock: one opener
//	networks.db.bad-TIME      what was damaged; nobody reads it again
//	networks.db.schema-N      as it was before it was migrated
//
// # Limits
//
// A file is at most 256 MiB, some hundred thousand records.
//
// # Concurrency
//
// Changes of Networks are made one at a time, and wait while the file is read back; those of leases do not wait for
// them. Reading waits for the change of memory and never for the disk.
package store

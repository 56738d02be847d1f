// Package localhttp serves HTTP on a unix socket to the user the process runs as, and to nobody else.
//
// # Theory of operation
//
// A socket's mode is the first door: 0600 in a directory of 0700. It is not the only one, because a mode
// is changed by a mistake and stays changed. So the kernel is asked who connected (SO_PEERCRED; it remembers from
// the moment of connect(2), so nothing can be pretended later), and another user is told 403 (LU-01). Root is
// another user: who is root can become this one.
//
// The same user is not trusted with the process's memory either, for a container may have been given the
// socket (LU-06). A header has 16 KiB and 10 s, a body 1 MiB and 30 s, a client that is idle 60 s; there are 1024
// connections, as many as a client that opens 500 and says nothing leaves room beside, and the
// others wait in the backlog. An answer may take as long as it takes, for who streams, streams; but what is
// written must be read within 30 s.
package localhttp

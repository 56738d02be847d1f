// Package rig builds the network that the tests of the real kernel run in, and runs usernet inside it.
//
// # The network
//
//	[ usernet, ordinary user, in H = "the host" ]  203.0.113.1, .3   fd01::1, ::3
//	        | veth h                               and 127.0.0.1, ::1 of its own
//	      [ R ]  203.0.113.254, 198.51.100.1       fd01::fe, fd02::1     (MTU, loss, drops, captures)
//	      /   \  veth x1, x2
//	  [ X1 ] [ X2 ]  198.51.100.10, .20            fd02::10, ::20        ("internet hosts")
//
// All of it are network namespaces that have no name and no file: they are gone with the processes in them.
//
// # The processes
//
// [Main] is the TestMain of a package that uses the rig. Started as root it is the builder: it installs the
// Debian packages that are missing, builds usernet, makes the namespaces, starts one node process in each, and
// then runs the same test binary again as an ordinary user inside H. That one runs the tests. The builder waits
// for it and exits with its code.
//
//	go test (root) = builder ──┬── node H, R, X1, X2 (root, one per namespace)
//	                           └── the tests (user usernet-test, in H, own mount namespace)
//	                                  └── usernet run ... ── CMD = a node again, in the sandbox
//
// A node does two things, asked over a SEQPACKET socket by its owner: it makes a socket in its namespaces and
// hands over the descriptor, and it runs a command. With the first, servers in X1 and clients in a sandbox are
// goroutines of the test itself, although their sockets live elsewhere: [Node.Dial], [Node.Listen],
// [Node.ListenPacket] and [Node.OpenPacket] are those of package net with the socket exchanged between its
// creation and its use. What needs a capability (raw and packet sockets) works because only making them does.
//
// # What it leaves behind
//
// Nothing but installed packages. The tests run in a mount namespace in which /etc is a copy (with the user
// usernet-test, its subordinate ids, and a resolv.conf that a test may change), /run and /tmp are empty, and
// /dev/net/tun is a device node of mode 0666. Every process ends when its owner does: nodes by the end of
// their socket, the others by the parent-death signal.
package rig

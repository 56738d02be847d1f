// Package rootlesstests tests usernet on the real kernel: the finished binary, run by an ordinary user, in a
// network of namespaces that stands for the world. No test needs the internet, and none skips.
//
//	sudo env PATH=$PATH go test ./rootless-tests/
//
// Package rig, in the folder below, builds the network, runs itself again as the user, and says how. A test
// looks like this:
//
//	func TestNAT26(t *testing.T) {
//		t.Parallel()
//		r := rig.Start(t)                          // the network: r.H, r.R, r.X1, r.X2
//		sb := r.Run(t, "--publish", "8080:80")     // usernet run; CMD is a node, so that
//		_, err := sb.Dial(ctx, "tcp", closed)      // sockets of the test can live inside
//		...
//	}
//
// What there is to work with:
//
//   - [rig.Node.DialTCP], [rig.Node.DialUDP], [rig.Node.Dial], [rig.Node.DialFrom]: a connection from a
//     namespace or from a sandbox, as one of package net. Its deadline is [rig.Patience].
//   - [rig.Node.ListenTCP], [rig.Node.ListenUDP]: a socket there. Servers are goroutines of the test: serveTCP,
//     serveEcho, serveUDP in servers_test.go.
//   - [rig.Node.OpenPacket]: whole frames, for a hostile container; [rig.Node.Socket]: any socket.
//   - [rig.Node.Run], [rig.Node.Exec], [rig.Node.Start]: a command there, as root of that namespace: ip,
//     iptables on r.R, ping in a sandbox. [rig.Node.RunUntilEnd], [rig.Node.SetSysctl], [rig.Node.SetMTU] put
//     back what they change.
//   - [rig.Node.Capture]: the packets on a device, decoded, for "0 packets leave H".
//   - [rig.Rig.Usernet]: usernet with any arguments, for tests of the command line and of real programs as CMD.
//   - [rig.Process.Datapath], [rig.Process.PID], [rig.Rig.Descriptors], [rig.Node.ReadFile]: processes.
//   - [rig.WaitFor]: the only way to wait for what does not announce itself. There is no sleeping.
//
// All tests share the rig. One that changes it for others (firewall, MTU, sysctl, resolv.conf) is not parallel.
// A published port is free of choice (--publish :80, or freePort) where tests run in parallel.
//
// # Tests
//
// A test is named for the requirement it shows: TestNAT26 is NAT-26, and go test -run 'TestNAT' lists and runs
// those on NAT. NAT is conformance to RFC 4787, 5382, 5508 and 6888; TCP and UDP are the transports; HC is the
// hostile container, root in its namespaces with raw sockets on its TAP; DN the name server, LU the local user, FT
// faults of processes and of the host, RX and SK load. What is a matter of minutes (idle timers) is tested beside
// the code with a clock passed in. Tests of real programs bear their names: TestCurl, TestPodmanInside; those of
// the command line are the scripts in testdata/script.
package rootlesstests

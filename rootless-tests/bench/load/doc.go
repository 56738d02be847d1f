// Package load is the bench's load tool: clients and servers that do as little as they can besides moving bytes.
//
// # Theory of operation
//
// An Agent is a process at one end of a path: on the host, or in a container. It obeys one Request after the
// other from its standard input and answers each on its standard output (JSON lines, see Remote for the other
// side), so that one controller runs both ends of every path. An agent that was told to listen serves in
// the background and goes on obeying.
//
// The tool must not be what is measured, so it is the plainest that can be: sockets block, and each
// connection has a thread of its own. Go's net package would park the goroutine, ask epoll and wake
// another thread for each byte of a round trip; on loopback that alone doubles the figure. And the runtime has turns
// to spare, so that its monitor sleeps (processors). Reads and writes are of 128 KiB, as iperf3's are.
//
// Streams are measured where they arrive, after a warm-up, so neither buffers filling up nor slow start
// count. What a sender has handed to its kernel is not yet carried.
//
// # Protocol
//
// The first byte of a TCP connection selects what the server does with it:
//
//	E  echo: the server returns every byte, also this one
//	U  upload: a streamHeader follows, then data; at the end of the window the server sends a streamResult,
//	   and the client resets the connection
//	D  download: a streamHeader follows; the server sends data until the client resets the connection
//	I  idle: the server returns the byte and keeps the connection until it is told to drop those it keeps
//
// One UDP port echoes, a second one counts.
//
// # Limits
//
// Every socket operation gives up after ioTimeout. A server has serverThreads connections in service at a
// time, idle ones aside.
package load

package sys

import "golang.org/x/sys/unix"

// InlineUrgent makes urgent bytes of a TCP socket part of its stream (RFC 6093 §6), so that a relay carries them like
// all others. It must be on before the first comes: the kernel drops one that the next overtakes. What a listener accepts
// has it from the listener.
func InlineUrgent(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }

package sys

import (
	"encoding/binary"
	"iter"
	"strings"

	"golang.org/x/sys/unix"
)

// InotifyEvent is one event of an inotify instance (inotify(7)).
type InotifyEvent struct {
	Watch int32  // the descriptor of the watch; -1 for an overflow
	Mask  uint32 // unix.IN_*
	Name  string // of the entry, when a directory is watched and the event is about an entry
}

// InotifyEvents walks the events that one read of an inotify instance gave. What is cut short ends the walk.
func InotifyEvents(b []byte) iter.Seq[InotifyEvent] {
	return func(yield func(InotifyEvent) bool) {
		for len(b) >= unix.SizeofInotifyEvent {
			e := InotifyEvent{Watch: int32(binary.NativeEndian.Uint32(b)), Mask: binary.NativeEndian.Uint32(b[4:])}
			length := uint64(binary.NativeEndian.Uint32(b[12:]))
			if b = b[unix.SizeofInotifyEvent:]; length > uint64(len(b)) {
				return
			}
			e.Name = strings.TrimRight(string(b[:length]), "\x00")
			if b = b[length:]; !yield(e) {
				return
			}
		}
	}
}

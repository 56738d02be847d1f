package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// MaxSocketPath is the length of sockaddr_un.sun_path less its final zero, in bytes (unix(7)).
const MaxSocketPath = 107

// FreeSocketPath makes way for a unix socket at path: a socket that an earlier process has left is removed, and
// whatever else is there is an error.
func FreeSocketPath(path string) error {
	if len(path) > MaxSocketPath {
		return fmt.Errorf("the path is longer than %d bytes; set XDG_RUNTIME_DIR to a shorter one", MaxSocketPath)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return errors.New("it is there and not a socket; remove it")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

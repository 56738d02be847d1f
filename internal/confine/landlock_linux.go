package confine

import (
	"errors"
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Everything that Landlock knows up to version 9; a kernel that knows less is given less.
const (
	fsRights = landlock.AccessFSSet(1<<17 - 1)
	scopes   = landlock.ScopedSet(unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL)
)

// abiScoped is the first version that can deny abstract sockets and signals.
const abiScoped = 6

// restrictPaths denies every path, and abstract sockets of and signals to processes outside, as far
// as the kernel knows how to. TCP ports are not restricted: binding and connecting is the
// process's work.
func restrictPaths() (abi int, err error) {
	abi, err = landlocksys.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return 0, errors.New("the kernel has no Landlock; enable it with lsm=landlock,... on its command line")
	}
	c, err := landlock.NewConfig(fsRights, scopes)
	if err != nil {
		return abi, err
	}
	if err := c.BestEffort().Restrict(); err != nil {
		return abi, err
	}
	if abi < abiScoped {
		return abi, fmt.Errorf("abstract sockets and signals stay open: Landlock version %d, they need %d", abi, abiScoped)
	}
	return abi, nil
}

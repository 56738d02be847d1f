package api

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/fault"
)

// lastSignal is SIGRTMAX.
const lastSignal = 64

// parseSignal reads a signal's number or name, with or without SIG, in either case. An empty name is the default.
func parseSignal(s string, def syscall.Signal) (syscall.Signal, error) {
	if s == "" {
		return def, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n > 0 && n <= lastSignal {
			return syscall.Signal(n), nil
		}
	} else if n := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); n != 0 {
		return n, nil
	}
	return 0, fault.New(fault.Invalid, "invalid signal: %s", s)
}

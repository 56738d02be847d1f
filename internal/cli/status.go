package cli

import "fmt"

// statusError is a command that failed in Docker's words, which are printed as they are, with the exit code
// that goes with them. It may have nothing to say.
type statusError struct {
	code int
	err  error // nil when everything was said already
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

// Unwrap returns the cause.
func (e *statusError) Unwrap() error { return e.err }

// statusf is a statusError of an ordinary failure.
func statusf(format string, args ...any) error {
	return &statusError{exitError, fmt.Errorf(format, args...)}
}

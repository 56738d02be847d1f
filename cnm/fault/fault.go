// Package fault gives errors of the control plane a Kind, of which the API makes a status code.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an Error is.
type Kind uint8

// The kinds, with the codes of Docker's API.
const (
	Internal    Kind = iota // 500
	Invalid                 // 400
	Forbidden               // 403
	NotFound                // 404
	Conflict                // 409
	Unavailable             // 503
)

// Error is a failure with its Kind. Its text is Docker's where Docker has one.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the first Error in err's chain, Internal when there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// New makes an Error as fmt.Errorf does.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

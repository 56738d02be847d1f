package sys

import "errors"

// UnsupportedError says that this kernel lacks a feature. errors.Is(err, errors.ErrUnsupported)
// holds for it.
type UnsupportedError struct {
	Feature string // what was wanted: "UDP segmentation offload"
	Need    string // what would have it: "Linux 6.2"
	Err     error  // what the kernel said; may be nil
}

func (e *UnsupportedError) Error() string {
	s := e.Feature + " is not supported by this kernel"
	if e.Need != "" {
		s += "; it needs " + e.Need
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the kernel's own error.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Is makes every UnsupportedError an errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

//go:build cgo

package confine

// builtWithCgo says that the binary was built with cgo; a released one is not.
const builtWithCgo = true

// Package null is the driver of Docker's network none: its sandboxes have their loopback, and what their user
// makes himself.
package null

import "github.com/usernet/usernet/cnm/driver"

// Type is the driver's name.
const Type = "null"

// New makes the driver.
func New() driver.Driver { return driver.NewPlain(Type) }

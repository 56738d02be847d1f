// Package host is the driver of Docker's network host: its sandboxes are in the host's own network namespace.
package host

import "github.com/usernet/usernet/cnm/driver"

// Type is the driver's name.
const Type = "host"

// New makes the driver.
func New() driver.Driver { return driver.NewPlain(Type) }

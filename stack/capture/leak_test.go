package capture

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the run when a goroutine is left (SK-06).
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

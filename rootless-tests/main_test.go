package rootlesstests

import (
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

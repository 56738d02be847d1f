package proctest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The test comes to its end inside, and only there.
func TestInside(t *testing.T) {
	const dirEnv = "USERNET_TEST_INSIDE_DIR"
	dir := os.Getenv(dirEnv)
	if dir == "" {
		dir = t.TempDir()
		t.Setenv(dirEnv, dir)
	}
	mark := filepath.Join(dir, "mark")
	if !Inside(t, Mounts) {
		if _, err := os.Stat(mark); err != nil {
			t.Errorf("it was not run inside: %v", err)
		}
		return
	}
	if err := syscall.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
		t.Errorf("mount in an own namespace: %v", err)
	}
	if err := syscall.Unmount("/tmp", 0); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Error(err)
	}
}

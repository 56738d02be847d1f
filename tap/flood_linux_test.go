package tap_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

// TestFloodLetsOthersRun: a container that sends without end what is only dropped keeps nobody else from running,
// also on the one P of the datapath, and also when the flood begins while the process is idle.
func TestFloodLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	// An eventfd that counts down gives eight bytes at each read, 2^62 times: an endless flood of runts.
	fd, err := unix.Eventfd(0, unix.EFD_SEMAPHORE|unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	flood := os.NewFile(uintptr(fd), "flood")
	drops := new(drop.Counters)
	dev, err := tap.Open(flood, tap.Info{Name: "flood", VNet: true, MTU: 1500}, tap.Options{Drops: drops})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- dev.Run(func([]l2.Frame) {}, nil) }()

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The flood begins when everybody here waits, and what the test waits for comes in the midst of it.
	cmd := exec.Command("/bin/sh", "-c", `sleep 0.1; printf '\0\0\0\0\0\0\0\100' >&3; sleep 0.1; echo done >&4`)
	cmd.ExtraFiles = []*os.File{flood, w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if drops.Get(drop.FrameRunt) == 0 {
		t.Error("there was no flood")
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

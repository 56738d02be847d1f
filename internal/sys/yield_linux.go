package sys

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Theory of operation
//
// The scheduler looks at the network when it has nothing else to run. Two goroutines that always have work, each of
// which lets the other run by runtime.Gosched, keep it from that: whoever waits for a descriptor then waits for
// the runtime's monitor, which looks every 10 ms, and sleeps altogether where all system calls are quiet (raw) ones.
//
// So Yield waits for a descriptor itself: an eventfd in the runtime's poller, which it makes ready just before. It
// comes back after the scheduler has run what can run and has looked at the network, which gives it everybody else who is
// ready along with Yield's own eventfd. There is one eventfd; who calls Yield while somebody waits for it waits for
// that one to come back.

// turn is the state of Yield.
var turn struct {
	once sync.Once
	look syscall.RawConn // nil when there is no eventfd
	fd   *os.File        // owns what look uses; never closed
	// asked says that the eventfd has been made ready. It is that one's who looks.
	asked bool

	// mu guards the rest.
	mu      sync.Mutex
	next    sync.Cond
	looking bool
	round   uint64 // how often somebody has come back
}

// Yield lets other goroutines run, those included for which something has come by the network. A loop that makes only
// quiet system calls and always has work must call it now and then.
func Yield() {
	watchProcessors()
	turn.once.Do(openTurn)
	if turn.look == nil {
		runtime.Gosched()
		return
	}
	turn.mu.Lock()
	if turn.looking {
		for r := turn.round; r == turn.round; {
			turn.next.Wait()
		}
		turn.mu.Unlock()
		return
	}
	turn.looking = true
	turn.mu.Unlock()

	lookAround()

	turn.mu.Lock()
	turn.looking = false
	turn.round++
	turn.mu.Unlock()
	turn.next.Broadcast()
}

func openTurn() {
	turn.next.L = &turn.mu
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return
	}
	turn.fd = os.NewFile(uintptr(fd), "turn")
	turn.look, _ = turn.fd.SyscallConn() // fails for a nil file only
}

// lookAround waits for the eventfd. An error, of which none is known, ends it as well.
func lookAround() {
	turn.asked = false
	_ = turn.look.Read(askTurn)
}

func askTurn(fd uintptr) (done bool) {
	if turn.asked {
		return true
	}
	turn.asked = true
	// The poller is edge-triggered: each write is an event, though nobody reads, and the sum never comes near 2^64. An
	// ordinary system call, because that wakes the runtime's monitor.
	_, err := unix.Write(int(fd), one)
	return err != nil // then nothing would wake us
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

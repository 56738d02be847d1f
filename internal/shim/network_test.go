package shim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/tap"
)

// fakeNetwork keeps the TAPs, as a real one does, and notes what happens. Changes are those that a socket of the
// test asks for, a line of JSON each.
type fakeNetwork struct {
	failAttach string
	changes    chan Change // nil when there are never any

	mu  sync.Mutex // guards what follows
	log string
	dev map[string]*os.File // by Endpoint
	// sockets have been made inside; they stay open, to be seen there.
	sockets []*os.File
}

func newFakeNetwork(failAttach, log string) *fakeNetwork {
	n := &fakeNetwork{failAttach: failAttach, log: log, dev: map[string]*os.File{}}
	if fd, err := strconv.Atoi(os.Getenv(changesEnv)); err == nil {
		n.changes = make(chan Change)
		go n.ask(os.NewFile(uintptr(fd), "changes")) // ends with the process
	}
	return n
}

// changesEnv is the number of the descriptor that changes come from.
const changesEnv = "USERNET_TEST_CHANGES"

// changeLine is a Change on the wire of tests.
type changeLine struct {
	Change
	Reply any // hides the channel
}

// ask passes on the changes of f, and answers each with a line: the error, or "ok".
func (n *fakeNetwork) ask(f *os.File) {
	for s := bufio.NewScanner(f); s.Scan(); {
		var l changeLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			panic(err)
		}
		reply := make(chan error, 1)
		l.Change.Reply = reply
		l.Change.Made = func(files []*os.File) { n.sockets = append(n.sockets, files...) }
		n.changes <- l.Change
		answer := "ok"
		if err := <-reply; err != nil {
			answer = err.Error()
		} else if id := l.Unplug; id != "" {
			n.drop(id)
		}
		fmt.Fprintf(f, "%q\n", answer)
	}
}

// drop forgets the TAP of an Endpoint that has been unplugged.
func (n *fakeNetwork) drop(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dev[id].Close()
	delete(n.dev, id)
}

func (n *fakeNetwork) note(s string) {
	if n.log == "" {
		return
	}
	f, err := os.OpenFile(n.log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, s)
}

func (n *fakeNetwork) Attach(id string, f *os.File, info tap.Info) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("attach " + info.Name)
	if n.failAttach != "" {
		return errors.New(n.failAttach)
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	if cerr := rc.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	n.dev[id] = os.NewFile(uintptr(fd), "tap")
	return nil
}

func (n *fakeNetwork) Started(int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("started")
}

func (n *fakeNetwork) Changes() <-chan Change { return n.changes }
func (n *fakeNetwork) Done() <-chan struct{}  { return nil }

func (n *fakeNetwork) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("close")
	var err error
	for _, d := range n.dev {
		err = errors.Join(err, d.Close())
	}
	return err
}

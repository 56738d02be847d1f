package shim

import (
	"context"
	"os"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/tap"
)

// Probe makes a sandbox with a TAP and nothing behind it, runs command in it and says what TAP the kernel
// gave. Its error is the one that Run would meet.
func Probe(ctx context.Context, m IDMap, l plumb.Link, command ...string) (tap.Info, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return tap.Info{}, err
	}
	defer null.Close()
	p := &probe{}
	signals, release := catchSignals()
	defer release()
	_, err = runSandbox(ctx, Config{
		Command: command, Env: os.Environ(), Map: m, Network: NetworkPrivate, Links: []plumb.Link{l},
		Start: func(context.Context, int) (Network, error) { return p, nil },
		Stdio: [3]*os.File{null, null, null},
	}, signals)
	return p.info, err
}

// probe is a Network that only looks.
type probe struct{ info tap.Info }

func (p *probe) Attach(_ string, _ *os.File, info tap.Info) error {
	p.info = info
	return nil
}
func (p *probe) Started(int)            {}
func (p *probe) Changes() <-chan Change { return nil }
func (p *probe) Done() <-chan struct{}  { return nil }
func (p *probe) Close() error           { return nil }

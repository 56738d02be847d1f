package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/wire"
)

// Adopt connects to the process that listens at cfg.Socket, of which everything else in cfg is as it was started
// with, but for Event. Errors that are fs.ErrNotExist or syscall.ECONNREFUSED say that there is no such process. One
// that is of another binary, does not answer, or is not understood, is ended.
func Adopt(ctx context.Context, cfg Config) (*Process, *Inventory, error) {
	p, err := connect(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("adopt datapath: %w", err)
	}
	inv, err := p.adopt(ctx)
	if ctx.Err() != nil {
		p.Leave() // to whoever starts next
		return nil, nil, fmt.Errorf("adopt datapath: %w", ctx.Err())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("adopt datapath, process %d: %w", p.PID(), errors.Join(err, p.Close()))
	}
	return p, inv, nil
}

// adopt asks the process who it is and what it holds.
func (p *Process) adopt(ctx context.Context) (*Inventory, error) {
	own, err := build()
	if err != nil {
		return nil, err
	}
	h, err := p.Hello(ctx)
	switch {
	case err != nil:
		return nil, err
	case h.Build != own:
		return nil, errors.New("it is of another binary; flows are reset")
	}
	var held []entry
	for more := true; more; {
		var part inventoryReply
		if err := p.call(ctx, kindInventory, inventoryRequest{len(held)}, nil, &part); err != nil {
			return nil, err
		}
		if more = part.More; more && len(part.Held) == 0 {
			return nil, errors.New("it tells an inventory without end")
		}
		held = append(held, part.Held...)
	}
	return newInventory(held), nil
}

// connect makes a Process of whoever listens.
func connect(ctx context.Context, cfg Config) (*Process, error) {
	var d net.Dialer
	dialed, err := d.DialContext(ctx, "unixpacket", cfg.Socket)
	if err != nil {
		return nil, err
	}
	conn := dialed.(*net.UnixConn) // what a dialer of unixpacket makes
	who, err := openAdopted(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c, err := wire.New(conn, MaxMessage)
	if err != nil {
		conn.Close()
		who.pidfd.Close()
		return nil, err
	}
	p := newProcess(c, cfg.Event)
	p.proc = who
	p.wg.Go(func() {
		p.err = who.wait()
		close(p.done)
	})
	p.wg.Go(p.readReplies)
	return p, nil
}

// adopted is a process that is nobody's child here: a pidfd stands for it, which no later process can be mistaken for.
type adopted struct {
	id    int
	pidfd *os.File
}

// openAdopted finds the process that listens at the other end of c.
func openAdopted(c *net.UnixConn) (*adopted, error) {
	uid, pid, err := sys.Peer(c)
	if err != nil {
		return nil, fmt.Errorf("find who listens: %w", err)
	}
	if uid != os.Geteuid() {
		return nil, fmt.Errorf("it is of user %d", uid)
	}
	// Should the number be another process's by now, the one that listened has ended, and nobody answers the hello.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &adopted{id: pid, pidfd: os.NewFile(uintptr(fd), "datapath process")}, nil
}

func (a *adopted) pid() int { return a.id }

func (a *adopted) kill() error {
	rc, err := a.pidfd.SyscallConn()
	if err != nil {
		return nil // wait has closed it
	}
	if cerr := rc.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); cerr != nil {
		return nil
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// wait returns when the process has ended, which makes the pidfd readable. How it ended only its parent is told.
func (a *adopted) wait() error {
	defer a.pidfd.Close()
	rc, err := a.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for datapath: %w", err)
	}
	var failed error
	err = rc.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // does not wait, so no EINTR
		failed = err
		return n != 0
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for datapath: %w", err)
	}
	return nil
}

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
)

// donor is a process whose namespaces are to be entered. They are opened once and used by descriptor: should the
// pid be reused in between, the process is seen to have ended.
type donor struct {
	pid   int
	pidfd int
	// ns are the namespaces it has for itself, by nsenter's names; those it shares with us need no entering.
	ns []namedFile
}

type namedFile struct {
	name string
	f    *os.File
}

// nsKinds are the kinds of namespaces by their names in /proc/PID/ns and as nsenter's options, in the order of
// entering: the rights for all come with the first.
var nsKinds = []struct {
	proc, option string
	flag         int
}{
	{"user", "user", unix.CLONE_NEWUSER},
	{"net", "net", unix.CLONE_NEWNET},
	{"uts", "uts", unix.CLONE_NEWUTS},
	{"mnt", "mount", unix.CLONE_NEWNS},
	{"pid", "pid", unix.CLONE_NEWPID},
}

// openDonor opens those namespaces of process pid whose flags are among flags.
func openDonor(pid, flags int) (*donor, error) {
	d := &donor{pid: pid, pidfd: -1}
	if err := d.open(flags); err != nil {
		d.close()
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("enter the namespaces of process %d: there is no such process; has its sandbox ended?", pid)
		}
		return nil, fmt.Errorf("enter the namespaces of process %d: %w", pid, err)
	}
	return d, nil
}

func (d *donor) open(flags int) (err error) {
	if d.pidfd, err = unix.PidfdOpen(d.pid, 0); err != nil {
		return err
	}
	for _, k := range nsKinds {
		if flags&k.flag == 0 {
			continue
		}
		f, err := sys.OpenNamespace(fmt.Sprintf("/proc/%d/ns/%s", d.pid, k.proc), k.flag)
		if err != nil {
			return err
		}
		own, err := sys.SameFile(f, "/proc/self/ns/"+k.proc)
		if err != nil || own {
			f.Close()
		}
		if err != nil {
			return err
		}
		if !own {
			d.ns = append(d.ns, namedFile{k.option, f})
		}
	}
	return d.alive()
}

// alive is an error when the process has ended.
func (d *donor) alive() error {
	if ended(d.pidfd) {
		return unix.ESRCH
	}
	return nil
}

// has reports whether there is a namespace of that kind to enter.
func (d *donor) has(option string) bool {
	for _, n := range d.ns {
		if n.name == option {
			return true
		}
	}
	return false
}

// handles are the namespaces.
func (d *donor) handles() (files []*os.File) {
	for _, n := range d.ns {
		files = append(files, n.f)
	}
	return files
}

func (d *donor) close() {
	for _, n := range d.ns {
		n.f.Close()
	}
	if d.pidfd >= 0 {
		unix.Close(d.pidfd)
	}
}

// maxDonorFile bounds a file that is taken over from a donor. A hosts file of ten thousand lines fits.
const maxDonorFile = 1 << 20

// files reads files as the donor sees them. Those it does not have, or has of the host, are left out.
func (d *donor) files(paths ...string) (files []plumb.File, err error) {
	root, err := openRoot(d.pid, d.pidfd)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, path := range paths {
		f, err := openBelow(root, path, os.O_RDONLY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		content, err := readOwn(f, path)
		f.Close()
		if err != nil {
			return nil, err
		}
		if content != nil {
			files = append(files, plumb.File{Path: path, Content: *content})
		}
	}
	return files, nil
}

// readOwn reads f, unless it is what the host has at path.
func readOwn(f *os.File, path string) (*string, error) {
	own, err := sys.SameFile(f, path)
	if own || err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var b strings.Builder
	n, err := io.Copy(&b, io.LimitReader(f, maxDonorFile+1))
	if err != nil {
		return nil, err
	}
	if n > maxDonorFile {
		return nil, fmt.Errorf("read %s: more than %d bytes", path, maxDonorFile)
	}
	s := b.String()
	return &s, nil
}

// findTool finds a program of util-linux.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w; install the package util-linux", name, exec.ErrNotFound)
	}
	return path, nil
}

package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// Files over the host's, in the sandbox's mount namespace only.
//
// # Theory of operation
//
//  1. A tmpfs is mounted over a directory nobody needs at this moment; init is alone in the namespace.
//  2. The files are written into it and each is bind-mounted over the file its path leads to. Symlinks
//     are followed: systemd-resolved and NixOS have /etc/resolv.conf elsewhere.
//  3. The tmpfs is detached. It lives on through the bind mounts and ends with the last process.
//
// A path that leads to nothing, to a device or into /proc cannot be mounted on, and the host's
// directory must not be written to. Then /etc is copied up: a tmpfs with our files, a symlink for each
// other file and a bind mount for each directory goes over /etc. Directories are mounted and not
// linked so that relative links inside them, which count their "..", still work.
//
// When the host replaces a file we are mounted on, by rename as every resolver daemon does, the kernel
// takes our mount away with the old file; guard_linux.go puts it back.

// scratchDirs are where the tmpfs may be made. /proc exists: we were executed through it.
var scratchDirs = []string{"/tmp", "/run", "/mnt", "/proc"}

// Each file is kept open, so that it can be given other content while CMD runs: the file stays the same
// one, wherever it has been mounted meanwhile.

// laidFiles are the files that were laid over the host's.
type laidFiles struct {
	byPath map[string]*os.File
	guard  *guard // nil when /etc was copied up
}

// close ends their guard. The files stay for whoever still sees them.
func (l *laidFiles) close() {
	if l == nil {
		return
	}
	l.guard.Close()
	for _, f := range l.byPath {
		f.Close()
	}
}

// set gives files other content: all of them or, when one is not ours, none.
func (l *laidFiles) set(files []plumb.File) error {
	for _, f := range files {
		if l == nil || l.byPath[f.Path] == nil {
			return fmt.Errorf("write %s: the sandbox was started without such a file of its own", f.Path)
		}
	}
	for _, f := range files {
		if err := rewrite(l.byPath[f.Path], f.Content); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

// rewrite replaces the content of f in place. It cuts last: who reads meanwhile never finds it empty.
func rewrite(f *os.File, content string) error {
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// layFiles puts files over the host's. The caller closes them when the sandbox ends.
func layFiles(files []plumb.File) (_ *laidFiles, err error) {
	// Already so when the namespace was made together with a user namespace, but nothing of ours may
	// ever reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, withUserNamespaceHint(fmt.Errorf("separate mounts from the host's: %w", err))
	}
	targets, bindErr := resolveTargets(files)
	scratch, err := mountScratch(targets)
	if err != nil {
		return nil, withUserNamespaceHint(err)
	}
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	l := &laidFiles{byPath: map[string]*os.File{}}
	var bound []laidFile
	if bindErr == nil {
		bound, bindErr = l.bind(scratch, files, targets)
	}
	if bindErr == nil {
		l.guard = newGuard(bound)
		return l, nil
	}
	if err := l.copyUpEtc(scratch, files); err != nil {
		l.close()
		return nil, errors.Join(bindErr, err)
	}
	return l, nil
}

// resolveTargets returns where each file is to be mounted, or why one cannot be.
func resolveTargets(files []plumb.File) ([]string, error) {
	targets := make([]string, len(files))
	for i, f := range files {
		t, err := mountable(f.Path)
		if err != nil {
			return nil, err
		}
		targets[i] = t
	}
	return targets, nil
}

// mountable follows path to a regular file that is not of /proc, where a mount would not be seen by
// other processes (/etc/resolv.conf may link to /proc/net/pnp).
func mountable(path string) (string, error) {
	t, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("mount on %s: %w", path, err)
	}
	st, err := os.Stat(t)
	if err != nil {
		return "", fmt.Errorf("mount on %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(t, &fs); err != nil {
		return "", fmt.Errorf("mount on %s: %w", path, err)
	}
	if !st.Mode().IsRegular() || fs.Type == unix.PROC_SUPER_MAGIC {
		return "", fmt.Errorf("mount on %s: %s is not an ordinary file", path, t)
	}
	return t, nil
}

// mountScratch mounts a tmpfs where it hides none of targets.
func mountScratch(targets []string) (dir string, err error) {
	err = errors.New("no directory to mount on")
next:
	for _, d := range scratchDirs {
		for _, t := range append(targets, "/etc") {
			if r, e := filepath.EvalSymlinks(d); e != nil || strings.HasPrefix(t, r+"/") {
				continue next
			}
		}
		// nosuid and nodev cost nothing here: text files only.
		if err = unix.Mount("usernet", d, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err == nil {
			return d, nil
		}
	}
	return "", fmt.Errorf("mount tmpfs: %w", err)
}

// laidFile is a file of ours on a file of the host's.
type laidFile struct {
	path     string // as processes know it
	dev, ino uint64 // of ours
}

func (l *laidFiles) bind(scratch string, files []plumb.File, targets []string) (bound []laidFile, err error) {
	for i, f := range files {
		src := fmt.Sprintf("%s/%d", scratch, i)
		if err := l.create(src, f); err != nil {
			return nil, err
		}
		if err := unix.Mount(src, targets[i], "", unix.MS_BIND, ""); err != nil {
			return nil, fmt.Errorf("mount on %s: %w", targets[i], err)
		}
		var st unix.Stat_t
		if err := unix.Stat(src, &st); err != nil {
			return nil, fmt.Errorf("mount on %s: %w", targets[i], err)
		}
		bound = append(bound, laidFile{f.Path, st.Dev, st.Ino})
	}
	return bound, nil
}

// create makes f at path, for everybody to read whatever the umask, and keeps it open.
func (l *laidFiles) create(path string, f plumb.File) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if was := l.byPath[f.Path]; was != nil {
		was.Close() // of an attempt to mount it
	}
	l.byPath[f.Path] = to
	if _, err := to.WriteString(f.Content); err != nil {
		return err
	}
	return to.Chmod(0o644)
}

// copyUpEtc mounts a copy of /etc with files in it over /etc.
func (l *laidFiles) copyUpEtc(scratch string, files []plumb.File) error {
	const host = ".host" // the host's /etc, inside ours
	etc := scratch + "/etc"
	if err := os.MkdirAll(etc+"/"+host, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/etc", etc+"/"+host, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount /etc on %s: %w", etc, err)
	}
	ours := map[string]bool{host: true}
	for _, f := range files {
		dir, name := filepath.Split(f.Path)
		if dir != "/etc/" {
			return fmt.Errorf("make %s: only files in /etc can be made", f.Path)
		}
		if err := l.create(etc+"/"+name, f); err != nil {
			return err
		}
		ours[name] = true
	}
	entries, err := os.ReadDir("/etc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !ours[e.Name()] {
			if err := copyUpEntry(etc, host, e); err != nil {
				return fmt.Errorf("copy up /etc/%s: %w", e.Name(), err)
			}
		}
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount over /etc: %w", err)
	}
	return nil
}

func copyUpEntry(etc, host string, e os.DirEntry) error {
	ours, its := etc+"/"+e.Name(), "/etc/"+e.Name()
	switch {
	case e.Type()&os.ModeSymlink != 0:
		to, err := os.Readlink(its)
		if err != nil {
			return err
		}
		return os.Symlink(to, ours)
	case e.IsDir():
		if err := os.Mkdir(ours, 0o755); err != nil {
			return err
		}
		return unix.Mount(its, ours, "", unix.MS_BIND|unix.MS_REC, "")
	}
	return os.Symlink(host+"/"+e.Name(), ours)
}

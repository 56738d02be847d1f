package shim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
)

// Identity maps (user_namespaces(7)).
//
// The kernel lets a process without privileges map one id, its own, and it may do so itself: that is
// MapRoot and MapKeep, written by init. More ids need CAP_SETUID in the parent namespace: newuidmap
// and newgidmap have it and obey /etc/subuid and /etc/subgid, and so has root. That is MapAuto, done
// by the shim while init waits for its setup.

// extent is one line of a map.
type extent struct{ inside, outside, count uint32 }

// idMaps are the maps init writes for itself: one id each.
type idMaps struct {
	InsideUID  int `json:"inside_uid"`
	InsideGID  int `json:"inside_gid"`
	OutsideUID int `json:"outside_uid"`
	OutsideGID int `json:"outside_gid"`
}

// ownMaps returns what init is to write, nil for MapAuto.
func ownMaps(m IDMap) *idMaps {
	uid, gid := os.Geteuid(), os.Getegid()
	switch m {
	case MapKeep:
		return &idMaps{uid, gid, uid, gid}
	case MapAuto:
		return nil
	}
	return &idMaps{0, 0, uid, gid}
}

// write maps the calling process, which is alone in its new user namespace.
func (m idMaps) write() error {
	// Without this the kernel refuses gid_map: giving up a group could gain access.
	if err := writeProc("/proc/self/setgroups", "deny"); err != nil {
		return err
	}
	if err := writeProc("/proc/self/gid_map", fmt.Sprintf("%d %d 1\n", m.InsideGID, m.OutsideGID)); err != nil {
		return err
	}
	return writeProc("/proc/self/uid_map", fmt.Sprintf("%d %d 1\n", m.InsideUID, m.OutsideUID))
}

func writeProc(path, s string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}

// mapAuto maps a process that was cloned without maps.
func mapAuto(ctx context.Context, pid int) error {
	if os.Geteuid() == 0 {
		return mapIdentity(pid)
	}
	name := userName()
	uids, err := subordinate("/etc/subuid", name, os.Geteuid())
	if err != nil {
		return err
	}
	gids, err := subordinate("/etc/subgid", name, os.Geteuid())
	if err != nil {
		return err
	}
	// The two are independent; each takes a millisecond or two.
	var gidErr error
	var wg sync.WaitGroup
	wg.Go(func() { gidErr = runMapTool(ctx, "newgidmap", pid, os.Getegid(), gids) })
	err = runMapTool(ctx, "newuidmap", pid, os.Geteuid(), uids)
	wg.Wait()
	return errors.Join(err, gidErr)
}

// runMapTool maps 0 to the caller's own id and 1 and up to its subordinate ids.
func runMapTool(ctx context.Context, tool string, pid, own int, sub []extent) error {
	path, err := exec.LookPath(tool)
	if err != nil {
		return fmt.Errorf("find %s: %w; install the package uidmap (shadow-utils), or use --map root", tool, exec.ErrNotFound)
	}
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	for _, e := range sub {
		args = append(args, u32(e.inside), u32(e.outside), u32(e.count))
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s; see \"usernet doctor\"", tool, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func u32(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// mapIdentity maps every id that the calling root has to itself.
func mapIdentity(pid int) error {
	for _, file := range []string{"gid_map", "uid_map"} {
		own, err := readMap("/proc/self/" + file)
		if err != nil {
			return err
		}
		var b strings.Builder
		for _, e := range own {
			fmt.Fprintf(&b, "%d %d %d\n", e.inside, e.inside, e.count)
		}
		if err := writeProc(fmt.Sprintf("/proc/%d/%s", pid, file), b.String()); err != nil {
			return err
		}
	}
	return nil
}

// readMap reads a uid_map or gid_map.
func readMap(path string) (es []extent, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		var e extent
		if _, err := fmt.Sscan(line, &e.inside, &e.outside, &e.count); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		es = append(es, e)
	}
	return es, nil
}

// userName is the caller's name, or its number when it has none.
func userName() string {
	uid := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// SubordinateIDs returns how many ids file, /etc/subuid or /etc/subgid, grants the caller. The error
// of a caller without any says how to get some.
func SubordinateIDs(file string) (int, error) {
	es, err := subordinate(file, userName(), os.Geteuid())
	n := 0
	for _, e := range es {
		n += int(e.count)
	}
	return n, err
}

// subordinate returns the ranges that file grants, laid out from 1 up inside.
func subordinate(file, name string, uid int) ([]extent, error) {
	f, err := os.Open(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var es []extent
	if err == nil {
		defer f.Close()
		if es, err = parseSubordinate(f, name, uid); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	if len(es) == 0 {
		flag := "--add-subuids"
		if strings.HasSuffix(file, "gid") {
			flag = "--add-subgids"
		}
		return nil, fmt.Errorf("%s has no range for %s; as root run \"usermod %s 100000-165535 %s\" (a range no other user has), or use --map root",
			file, name, flag, name)
	}
	return es, nil
}

// parseSubordinate reads subuid(5): lines NAME:START:COUNT, where NAME may be a number. Lines of
// others and malformed lines are passed over, as newuidmap does.
func parseSubordinate(r io.Reader, name string, uid int) (es []extent, err error) {
	inside := uint64(1)
	s := bufio.NewScanner(r)
	for s.Scan() {
		owner, rest, _ := strings.Cut(strings.TrimSpace(s.Text()), ":")
		first, count, _ := strings.Cut(rest, ":")
		if owner != name && owner != strconv.Itoa(uid) {
			continue
		}
		a, err1 := strconv.ParseUint(first, 10, 32)
		n, err2 := strconv.ParseUint(count, 10, 32)
		if err1 != nil || err2 != nil || n == 0 || a+n > 1<<32-1 || inside+n > 1<<32-1 {
			continue
		}
		es = append(es, extent{uint32(inside), uint32(a), uint32(n)})
		inside += n
	}
	return es, s.Err()
}

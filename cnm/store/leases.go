package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Theory of operation
//
// Containers come and go all the time, and each takes its lease before it gets its addresses. A lease has to outlive the
// daemon, because the container does; it need not outlive the machine, because the container does not. So it needs no
// fsync and no copy, and is a file of its own: written beside and renamed into place, which a daemon that is killed at any
// point has either done or not done. What it costs does not depend on how many there are, and nobody waits for the
// fsyncs of a Network.
//
//	FILE.leases/KEY    sum of bucket, key and record in hex, newline, record
//
// A power cut may leave a file empty or half written. Its sum says so; it is dropped, which is what happens to all leases
// after a reboot anyhow. Were a living container's lease lost, its shim would still know what it had.

// leaseSuffix is of a file that is being written; no key ends so.
const leaseSuffix = ".new"

func (s *Store) leaseDir() string { return s.path + ".leases" }

// leaseKey refuses what is not the name of a file in one directory.
func leaseKey(key string) error {
	if !filepath.IsLocal(key) || key == "." || strings.ContainsRune(key, filepath.Separator) || strings.HasSuffix(key, leaseSuffix) {
		return fmt.Errorf("store %q in %q: not a name for a record", key, Endpoints)
	}
	return nil
}

// loadLeases reads all leases, and removes what is not one.
func (s *Store) loadLeases() (map[string][]byte, error) {
	if err := private(s.leaseDir()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.leaseDir())
	if err != nil {
		return nil, err
	}
	all := make(map[string][]byte)
	for _, e := range entries {
		path := filepath.Join(s.leaseDir(), e.Name())
		raw, err := readLease(path)
		if err == nil {
			all[e.Name()] = raw
			continue
		}
		if err := readable(err); err != nil {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(path, leaseSuffix) {
			s.log.Warn("lease is damaged and dropped", "path", path, "damage", err)
		}
	}
	return all, nil
}

func readLease(path string) ([]byte, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseLease(filepath.Base(path), b)
}

// parseLease takes the record out of a lease's file.
func parseLease(key string, b []byte) ([]byte, error) {
	n := len(leaseHead(key, nil))
	if len(b) <= n || string(b[:n]) != leaseHead(key, b[n:]) {
		return nil, errors.New("record does not add up to its sum")
	}
	return b[n:], nil
}

// leaseHead is what a lease's file begins with.
func leaseHead(key string, raw []byte) string {
	var d digest
	d.toggle(Endpoints, key, raw)
	return hex.EncodeToString(d[:]) + "\n"
}

// changeLease writes a lease, or removes it where raw is nil.
func (s *Store) changeLease(key string, raw []byte) error {
	if err := leaseKey(key); err != nil {
		return err
	}
	s.leasing.Lock()
	defer s.leasing.Unlock()
	if s.closed {
		return ErrClosed
	}
	path := filepath.Join(s.leaseDir(), key)
	var err error
	if raw == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		err = replace(path, append([]byte(leaseHead(key, raw)), raw...))
	}
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if raw == nil {
		delete(s.leases, key)
	} else {
		s.leases[key] = raw
	}
	return nil
}

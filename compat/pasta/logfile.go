package pasta

import (
	"fmt"
	"os"
	"sync"
)

// logFile is a log that never grows beyond a size: when it is full, its older half goes.
type logFile struct {
	mu   sync.Mutex // guards what follows
	f    *os.File
	size int64
	max  int64
}

// openLog makes or empties the file at path.
func openLog(path string, max int64) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("Couldn't open log file %s: %w", path, err)
	}
	return &logFile{f: f, max: max}, nil
}

// Write adds one record. One that is larger than the file may be is cut.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	if int64(len(b)) > l.max/2 {
		b = b[:l.max/2]
	}
	if l.size+int64(len(b)) > l.max {
		if err := l.halve(); err != nil {
			return 0, err
		}
	}
	w, err := l.f.WriteAt(b, l.size)
	l.size += int64(w)
	if err != nil {
		return w, err
	}
	return n, nil
}

// halve drops the older half, up to the end of a line. The caller holds mu.
func (l *logFile) halve() error {
	keep := make([]byte, l.max/2)
	n, err := l.f.ReadAt(keep, l.size-min(l.size, l.max/2))
	if err != nil && n == 0 && l.size > 0 {
		return err
	}
	keep = keep[:n]
	for i, b := range keep {
		if b == '\n' {
			keep = keep[i+1:]
			break
		}
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	w, err := l.f.WriteAt(keep, 0)
	l.size = int64(w)
	return err
}

func (l *logFile) Close() error { return l.f.Close() }

package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
)

// maxLog bounds the log of a daemon that was started on demand, in bytes. It is kept twice.
const maxLog = 1 << 20

// logFile is a log that does not grow for ever. Datapath and runtime write to the same open file, so it is not
// replaced: what is in it is copied away, and it is cut. All append, so all go on at its new end.
type logFile struct {
	path string
	max  int64

	// mu keeps a line from being cut in two.
	mu sync.Mutex
	f  *os.File
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fi, err := l.f.Stat(); err == nil && fi.Size()+int64(len(p)) > l.max {
		l.rotate(fi.Size())
	}
	return l.f.Write(p)
}

// rotate begins anew. A copy that cannot be made is no reason to grow.
func (l *logFile) rotate(size int64) {
	if in, err := os.Open(l.path); err == nil {
		if out, err := os.OpenFile(l.path+".old", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
			_, _ = io.Copy(out, io.NewSectionReader(in, max(0, size-l.max), l.max))
			out.Close()
		}
		in.Close()
	}
	_ = l.f.Truncate(0)
}

// logOutput is where the log goes: stderr, with its length bounded when that is the file of a daemon that was
// started on demand.
func logOutput(stderr *os.File, path string) io.Writer {
	a, err := stderr.Stat()
	if err != nil {
		return stderr
	}
	if b, err := os.Stat(path); err == nil && os.SameFile(a, b) {
		return &logFile{path: path, max: maxLog, f: stderr}
	}
	return stderr
}

// newLogger makes the daemon's log. In the journal each line has its priority before it (sd-daemon(3)) and no time,
// which the journal has.
func newLogger(w io.Writer, level slog.Leveler, json, journal bool) *slog.Logger {
	if !journal {
		return slog.New(newHandler(w, level, json, nil))
	}
	h := &priorities{}
	for i, p := range [...]string{"<7>", "<6>", "<4>", "<3>"} {
		h.by[i] = newHandler(prefixed{w, p}, level, json, withoutTime)
	}
	return slog.New(h)
}

func newHandler(w io.Writer, level slog.Leveler, json bool, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if json {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// priorities is a handler for each of debug, info, warn and error.
type priorities struct{ by [4]slog.Handler }

func (p *priorities) of(l slog.Level) slog.Handler {
	switch {
	case l < slog.LevelInfo:
		return p.by[0]
	case l < slog.LevelWarn:
		return p.by[1]
	case l < slog.LevelError:
		return p.by[2]
	}
	return p.by[3]
}

// Enabled implements slog.Handler.
func (p *priorities) Enabled(ctx context.Context, l slog.Level) bool { return p.of(l).Enabled(ctx, l) }

// Handle implements slog.Handler.
func (p *priorities) Handle(ctx context.Context, r slog.Record) error {
	return p.of(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (p *priorities) WithAttrs(attrs []slog.Attr) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (p *priorities) WithGroup(name string) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (p *priorities) each(f func(slog.Handler) slog.Handler) slog.Handler {
	n := &priorities{}
	for i, h := range p.by {
		n.by[i] = f(h)
	}
	return n
}

// prefixed puts something before each line; a handler writes a line at once.
type prefixed struct {
	w      io.Writer
	prefix string
}

// Write implements io.Writer.
func (p prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

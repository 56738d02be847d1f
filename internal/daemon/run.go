package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/datapath"
)

// gcPercent lets the heap grow by half of what is live before it is collected. A daemon has little to do and stays for days,
// so memory is worth more to its user than the time: with 2 000 sandboxes a collection takes some milliseconds.
const gcPercent = 50

// Options are what a daemon is started with.
type Options struct {
	// Paths are where its files are; the zero Paths means FindPaths.
	Paths Paths
	// Source is where its settings come from; File is Paths.ConfigFile when it is empty.
	Source Source
	// IdleTimeout ends it after so long without sandboxes and requests; 0 means never.
	IdleTimeout time.Duration
	// Datapath says how to start the process that moves the packets. Level, JSON and Stderr are the daemon's.
	Datapath datapath.Config
	// Version, Commit and BuildTime are what the API says of the program.
	Version, Commit, BuildTime string
	// Profile is that of sandboxes that ask for none.
	Profile cnm.Profile
	// Stderr is where the log goes; nil means os.Stderr.
	Stderr *os.File
}

// Run is the daemon: it returns when it was told to end, by ctx, SIGTERM, SIGINT or its idle timeout, which is no
// error. Sandboxes outlive it.
func Run(ctx context.Context, o Options) error {
	parent, detached, err := fromStarter()
	if err != nil || detached {
		return err
	}
	err = run(ctx, &o, parent)
	parent.failed(err)
	return err
}

func run(ctx context.Context, o *Options, parent *starter) (err error) {
	given := activation.Files(true)
	if parent != nil {
		if err := closeInherited(); err != nil {
			return err
		}
	}
	if err := o.complete(); err != nil {
		return err
	}
	cfg, warnings, err := o.Source.Load()
	if err != nil {
		return err
	}
	if err := harden(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	debug.SetGCPercent(gcPercent)
	held, err := lock(o.Paths)
	if err != nil {
		return err
	}
	defer held.Close()
	d := &daemon{o: o, cfg: cfg, idle: newIdleness(o.IdleTimeout)}
	defer d.idle.stop()
	d.level.Set(cfg.Level())
	d.log = newLogger(logOutput(o.Stderr, o.Paths.Log()), &d.level, cfg.LogFormat == "json", isJournal(o.Stderr, os.Getenv("JOURNAL_STREAM")))
	for _, w := range warnings {
		d.log.Warn("configuration: " + w)
	}
	return d.run(ctx, given, parent)
}

// complete fills in what was left out.
func (o *Options) complete() (err error) {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Paths == (Paths{}) {
		if o.Paths, err = FindPaths(); err != nil {
			return err
		}
	}
	if o.Source.File == "" {
		o.Source.File = o.Paths.ConfigFile
	}
	return nil
}

// daemon is a running one.
type daemon struct {
	o     *Options
	cfg   Config // the goroutine of run alone uses it
	level slog.LevelVar
	log   *slog.Logger
	idle  *idleness
	parts *parts
}

func (d *daemon) run(ctx context.Context, given []*os.File, parent *starter) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	// A log that nobody reads any more is no reason to end.
	signal.Ignore(syscall.SIGPIPE)

	// The parts outlive ctx: they are closed in order.
	debug := func() bool { return d.level.Level() <= slog.LevelDebug }
	if d.parts, err = assemble(context.WithoutCancel(ctx), d.o, d.cfg, d.log, d.idle, debug); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	s, err := listen(d.o.Paths, d.cfg.Hosts, given, d.log)
	if err != nil {
		return errors.Join(fmt.Errorf("start daemon: %w", err), d.parts.close())
	}
	served := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { served <- d.parts.serve(ctx, s, d.idle, d.o, d.log) })
	d.log.Info("daemon ready", "pid", os.Getpid(), "socket", d.o.Paths.Socket(), "version", d.o.Version)
	d.notify(systemd.SdNotifyReady)
	parent.ready()

	why, told, err := d.wait(ctx, signals, served)
	d.log.Info("daemon ends", "reason", why)
	d.notify(systemd.SdNotifyStopping)
	cancel()
	wg.Wait()
	select {
	case e := <-served:
		err = errors.Join(err, e)
	default: // wait has it
	}
	d.parts.join.Shutdown(why, told)
	return errors.Join(err, d.parts.close())
}

// wait returns when there is a reason to end; told is that somebody wants no daemon.
func (d *daemon) wait(ctx context.Context, signals <-chan os.Signal, served <-chan error) (why string, told bool, err error) {
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				return "it was told to: " + s.String(), true, nil
			}
			d.reload()
		case <-ctx.Done():
			return "it was told to", true, nil
		case <-d.idle.expired:
			return "nobody uses it", false, nil
		case err := <-served:
			return "it cannot serve", false, err
		case <-d.parts.control.Done():
			return "no datapath", false, fmt.Errorf("run datapath: %w", d.parts.control.Err())
		}
	}
}

// reloadable are the keys that take effect without a restart; DNS counts for sandboxes that join from then on.
var reloadable = []string{"debug", "log-level", "dns", "dns-opts", "dns-search"}

// reload reads the settings again. What cannot be used changes nothing.
func (d *daemon) reload() {
	d.notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, monotonic()))
	defer d.notify(systemd.SdNotifyReady)
	cfg, warnings, err := d.o.Source.Load()
	if err != nil {
		d.log.Error("configuration not reloaded", "err", err)
		return
	}
	for _, w := range warnings {
		d.log.Warn("configuration: " + w)
	}
	old := d.cfg
	var late []string
	for i, f := range cfg.fields() {
		if !reflect.DeepEqual(reflect.ValueOf(f.to).Elem().Interface(), reflect.ValueOf(old.fields()[i].to).Elem().Interface()) &&
			!slices.Contains(reloadable, f.key) {
			late = append(late, f.key)
		}
	}
	d.cfg.Debug, d.cfg.LogLevel = cfg.Debug, cfg.LogLevel
	d.cfg.DNS, d.cfg.DNSOpts, d.cfg.DNSSearch = cfg.DNS, cfg.DNSOpts, cfg.DNSSearch
	d.level.Set(cfg.Level())
	d.parts.controller.Reload(d.cfg.dns())
	d.log.Info("configuration reloaded", "level", strings.ToLower(cfg.Level().String()))
	if len(late) > 0 {
		d.log.Warn("these settings take effect when the daemon is started again", "keys", late)
	}
}

// notify tells systemd, where it listens.
func (d *daemon) notify(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("systemd not told", "err", err)
	}
}

// Command bench compares usernet with the kernel's loopback, a plain TCP relay, slirp4netns, pasta, gvisor-tap-vsock
// where there is one, and podman's own rootless bridge.
//
//	bench [--quick] [--repeat N] [--mtu 1500,65520] [--subjects LIST] [--json FILE] [--plot FILE.svg] [--check]
//	bench --from FILE [--plot FILE.svg] [--check]
//
// # Theory of operation
//
// One run measures every subject, and takes turns: all sandboxes are up at once, idle but for the one in
// turn, and each round measures one thing on all before the next thing. What disturbs the machine for a
// minute then disturbs all alike, and ratios hold where figures do not.
//
// The process starts itself again, each time with less:
//
//  1. As root (if it is) it installs what is missing, makes an ordinary user and lets it open /dev/net/tun; in a mount
//     namespace it makes what podman needs.
//  2. As that user, or as whoever started it, it measures through podman, with the network programs of the distribution and with
//     usernet in their place (through.go), and has podman set up two containers on a network of podman's.
//  3. In a user and network namespace of its own it makes a rig: loopback and a default route that leads
//     nowhere, which pasta wants. Then it gives its capabilities up.
//  4. There it measures, and hands the result back to the first one, which prints it.
//
// Every subject does what it does for an ordinary user, and no packet leaves the machine. Servers listen
// on the rig's loopback, which containers reach at their gateway's address, or in the other container of a network
// (neighbours.go, podman.go). Last come a thousand networks and two thousand containers (scale.go, crowd.go).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// errFloors is told by the table already.
var errFloors = errors.New("floors are missed")

func main() {
	run := dispatch
	if file := mapFiles[filepath.Base(os.Args[0])]; file != "" {
		run = func(args []string) error { return mapSelf(file, args) }
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case agentRole:
			return load.Serve(os.Stdin, os.Stdout)
		case rootRole:
			return becomeUser(args[1:])
		case enterRole:
			return enterOther(args[1:])
		case otherRole:
			return measureOther(args[1], args[2:])
		case userRole:
			return runAsUser(args[1], args[2:])
		case rigRole:
			return makeRig(args[1], args[2:])
		case measureRole:
			return measureAll(args[1], args[2:])
		}
	}
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := obtain(o, args)
	if err != nil {
		return err
	}
	return show(r, o)
}

// obtain reads an earlier result, or measures.
func obtain(o options, args []string) (*report.Result, error) {
	if o.from == "" {
		return start(o, args)
	}
	f, err := os.Open(o.from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return report.Read(f)
}

// show prints and writes what was asked for.
func show(r *report.Result, o options) error {
	if err := r.Table(os.Stdout); err != nil {
		return err
	}
	fmt.Println()
	passed, err := r.FloorTable(os.Stdout)
	if err != nil {
		return err
	}
	if o.json != "" && o.from == "" {
		if err := writeFile(o.json, r.Write); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := writeFile(o.plot, r.SVG); err != nil {
			return err
		}
	}
	if o.check && !passed {
		return errFloors
	}
	return nil
}

// options are the flags.
type options struct {
	quick, check bool
	repeat       int
	mtus         []int
	subjects     []report.Subject
	usernet      string // a binary to measure; empty: build it
	json, plot   string
	from         string
	window, warm time.Duration
	idle         int
	startUps     int
	only         []string
}

func parseOptions(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "one short round, fewer idle connections and start-ups")
	fs.BoolVar(&o.check, "check", false, "exit with 1 when a floor is missed or not measured")
	fs.IntVar(&o.repeat, "repeat", 0, "rounds, of which the median counts (default 5, quick 1)")
	mtus := fs.String("mtu", "1500,65520", "MTUs of the containers")
	subjects := fs.String("subjects", "loopback,relay,usernet,slirp4netns,pasta,gvisor-tap-vsock,podman", "what to measure")
	fs.StringVar(&o.usernet, "usernet", "", "usernet binary to measure (default: built from this module)")
	fs.StringVar(&o.json, "json", "", "write the result to `FILE`")
	fs.StringVar(&o.plot, "plot", "", "draw the result as SVG into `FILE`")
	fs.StringVar(&o.from, "from", "", "do not measure, take the result of `FILE`")
	fs.DurationVar(&o.window, "window", 0, "length of each measurement (default 1s, quick 300ms)")
	fs.IntVar(&o.idle, "idle", 0, "idle connections (default 10000, quick 2000)")
	fs.IntVar(&o.startUps, "start-ups", 0, "starts of each program (default 41, quick 11)")
	only := fs.String("only", "", "measure only these, for profiling: "+strings.Join(stepNames(), ", "))
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("parse arguments: %q is not a flag; see --help", fs.Arg(0))
	}
	o.defaults()
	if o.mtus, err = parseMTUs(*mtus); err != nil {
		return o, err
	}
	if o.subjects, err = parseSubjects(*subjects); err != nil {
		return o, err
	}
	o.only, err = parseOnly(*only)
	return o, err
}

// defaults fills in what was not given. A window of a second averages over some hundred of the scheduler's
// turns; the warm-up is as long as TCP's windows need to open on a path of no delay, several times over.
// Start-ups are odd in number, so that the median is one of them.
func (o *options) defaults() {
	d := struct {
		repeat, idle, startUps int
		window                 time.Duration
	}{5, 10000, 41, time.Second}
	if o.quick {
		d.repeat, d.idle, d.startUps, d.window = 1, 2000, 11, 300*time.Millisecond
	}
	if o.repeat <= 0 {
		o.repeat = d.repeat
	}
	if o.idle <= 0 {
		o.idle = d.idle
	}
	if o.startUps <= 0 {
		o.startUps = d.startUps
	}
	if o.window <= 0 {
		o.window = d.window
	}
	o.warm = o.window / 3
}

// maxMTU is the most that slirp4netns takes; its and usernet's least for IPv6 is that of RFC 8200 §5.
const (
	minMTU = 1280
	maxMTU = 65521
)

func parseMTUs(s string) (mtus []int, err error) {
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < minMTU || n > maxMTU {
			return nil, fmt.Errorf("parse --mtu: %q is not a number from %d to %d", word, minMTU, maxMTU)
		}
		mtus = append(mtus, n)
	}
	return mtus, nil
}

func parseSubjects(s string) (subjects []report.Subject, err error) {
	wanted := map[report.Subject]bool{}
	for word := range strings.SplitSeq(s, ",") {
		wanted[report.Subject(word)] = true
	}
	for _, known := range report.Subjects {
		if wanted[known] {
			subjects = append(subjects, known)
			delete(wanted, known)
		}
	}
	for word := range wanted {
		return nil, fmt.Errorf("parse --subjects: no subject %q; there are %v", word, report.Subjects)
	}
	return subjects, nil
}

func parseOnly(s string) (names []string, err error) {
	if s == "" {
		return stepNames(), nil
	}
	for name := range strings.SplitSeq(s, ",") {
		if !slices.Contains(stepNames(), name) {
			return nil, fmt.Errorf("parse --only: nothing is called %q; there are %s", name, strings.Join(stepNames(), ", "))
		}
		names = append(names, name)
	}
	return names, nil
}

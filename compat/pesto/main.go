package pesto

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/usernet/usernet/compat/getopt"
	"github.com/usernet/usernet/compat/pasta/forward"
)

// answerPatience is how long the server may take to do what it was told. It binds up to a few thousand ports.
const answerPatience = 30 * time.Second

// maxAnswer bounds the reason for a refusal in bytes.
const maxAnswer = 4096

// The values of options without a letter.
const optVersion = 1

var options = getopt.Options{
	Short: "dhADC:t:u:T:U:s",
	Long: []getopt.Long{
		{Name: "debug", Value: 'd'}, {Name: "help", Value: 'h'}, {Name: "version", Value: optVersion},
		{Name: "add", Value: 'A'}, {Name: "delete", Value: 'D'}, {Name: "clear", Argument: getopt.Required, Value: 'C'},
		{Name: "tcp-ports", Argument: getopt.Required, Value: 't'}, {Name: "udp-ports", Argument: getopt.Required, Value: 'u'},
		{Name: "tcp-ns", Argument: getopt.Required, Value: 'T'}, {Name: "udp-ns", Argument: getopt.Required, Value: 'U'},
		{Name: "show", Value: 's'},
	},
}

// change is one option that changes rules; they count in the order they are given.
type change struct {
	letter rune
	arg    string
}

// command is a command line.
type command struct {
	program     string
	path        string
	changes     []change
	show, debug bool
}

// Main is the program called pesto. It returns the exit code.
func Main(args, env []string, stdio [3]*os.File) int {
	return run(args, stdio[1], stdio[2])
}

func run(args []string, out, errs io.Writer) int {
	c, code, done := parse(args, out, errs)
	if done {
		return code
	}
	if err := c.run(out, errs); err != nil {
		fmt.Fprintln(errs, err)
		return 1
	}
	return 0
}

// parse reads the command line; done says that this was all there is to do.
func parse(args []string, out, errs io.Writer) (c *command, code int, done bool) {
	c = &command{program: "pesto"}
	if len(args) > 0 {
		c.program = args[0]
	}
	p := getopt.New(args, options)
	for {
		letter, ok, err := p.Next()
		if err != nil {
			fmt.Fprintln(errs, err)
			fmt.Fprint(errs, usage(c.program))
			return nil, 1, true
		}
		if !ok {
			break
		}
		arg, _ := p.Arg()
		switch letter {
		case 'h':
			fmt.Fprint(out, usage(c.program))
			return nil, 0, true
		case optVersion:
			fmt.Fprint(out, versionText)
			return nil, 0, true
		case 's':
			c.show = true
		case 'd':
			c.debug = true
		default:
			c.changes = append(c.changes, change{letter, arg})
		}
	}
	if len(p.Args()) != 1 {
		fmt.Fprint(errs, usage(c.program))
		return nil, 1, true
	}
	c.path = p.Args()[0]
	return c, 0, false
}

// run does what the command line asks for.
func (c *command) run(out, errs io.Writer) error {
	conn, err := dial(c.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerPatience)); err != nil {
		return err
	}
	have, err := ReadState(conn)
	if err != nil {
		return err
	}
	if c.debug {
		for _, i := range have {
			fmt.Fprintf(errs, "PIF %d: %s, %d rules, capabilities %#x\n", i.ID, printable([]byte(i.Name)), len(i.Table.Rules), i.Table.Caps)
		}
	}
	if len(c.changes) == 0 {
		return showState(out, fmt.Sprintf("passt/pasta configuration (%s)", c.path), have)
	}
	if c.show {
		if err := showState(out, fmt.Sprintf("Previous configuration (%s)", c.path), have); err != nil {
			return err
		}
	}
	if err := apply(have, c.changes, forward.Ephemeral()); err != nil {
		return err
	}
	if c.show {
		if err := showState(out, fmt.Sprintf("Updated configuration (%s)", c.path), have); err != nil {
			return err
		}
	}
	return send(conn, have)
}

// maxPath is what fits into a socket address, with the zero at its end.
const maxPath = 107

func dial(path string) (*net.UnixConn, error) {
	if path == "" || len(path) > maxPath {
		return nil, fmt.Errorf("Invalid socket path %q", path)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("Failed to connect to %s: %w", path, rootCause(err))
	}
	return c, nil
}

// send tells the server what is to be, and waits until it is.
func send(conn *net.UnixConn, want []Interface) error {
	if err := WriteUpdate(conn, want); err != nil {
		return fmt.Errorf("Error writing to control socket: %w", rootCause(err))
	}
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("Error shutting down control socket: %w", rootCause(err))
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	switch {
	case len(answer) > 0:
		return errors.New(printable(answer))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("The server has not taken the rules within %v", answerPatience)
	}
	// A reset is the original's way to hang up.
	return nil
}

// printable keeps a hostile server from writing to the terminal what is no text.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), ""))
}

// rootCause is what the kernel said.
func rootCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sc *os.SyscallError
	if errors.As(err, &sc) {
		err = sc.Err
	}
	return err
}

func showState(out io.Writer, title string, have []Interface) error {
	var b strings.Builder
	fmt.Fprintln(&b, title)
	for _, i := range have {
		fmt.Fprintf(&b, "  %s\n", printable([]byte(i.Name)))
		for _, r := range i.Table.Rules {
			fmt.Fprintf(&b, "    %s\n", printable([]byte(r.String())))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// apply makes the changes in order. As in the original rules are replaced at the first SPEC for an interface, unless
// -A or -D came before.
func apply(have []Interface, changes []change, ephemeral forward.Ports) error {
	mode, replace := forward.Add, true
	cleared := map[string]bool{}
	for _, c := range changes {
		switch c.letter {
		case 'A':
			mode, replace = forward.Add, false
			continue
		case 'D':
			mode, replace = forward.Delete, false
			continue
		case 'C':
			i := find(have, c.arg)
			if i == nil {
				return fmt.Errorf("Unsupported pif name %s", c.arg)
			}
			i.Table.Rules, cleared[c.arg] = nil, true
			continue
		}
		o := forward.Option(c.letter)
		name, direction := Host, "inbound"
		if !o.Inbound() {
			name, direction = Splice, "outbound"
		}
		i := find(have, name)
		if i == nil {
			return fmt.Errorf("Can't use -%c, no %s interface", c.letter, direction)
		}
		if replace && !cleared[name] {
			i.Table.Rules, cleared[name] = nil, true
		}
		if err := i.Table.Parse(o, mode, c.arg, ephemeral); err != nil {
			return err
		}
	}
	return nil
}

func find(have []Interface, name string) *Interface {
	for i := range have {
		if have[i].Name == name {
			return &have[i]
		}
	}
	return nil
}

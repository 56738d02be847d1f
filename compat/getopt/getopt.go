// Package getopt reads command lines as getopt_long(3) of the GNU C library does.
//
// # Theory of operation
//
// Programs that take the place of a C program are called with words written for getopt_long, and their callers look
// for its messages in what they print. So the rules are its rules, and the texts its texts in the C locale:
//
//   - a word that begins with one dash and is longer has short options, of which the first that takes an argument
//     takes the rest of the word, or the next word whatever that is;
//   - a word that begins with two dashes is a long option, whole or abbreviated, with its argument after an equals
//     sign or, where it is required, in the next word. An abbreviation that fits several is an error, but for
//     options that are the same under two names;
//   - "--" ends the options;
//   - every other word, "-" among them, is an argument of the program: it is passed over and options go on after it,
//     or the options end there, when the short options begin with "+" or POSIXLY_CORRECT is set.
//
// The C function permutes its argument vector to the same effect; this one collects what it passes over.
package getopt

import (
	"fmt"
	"strings"
)

// Argument says whether an option takes one.
type Argument uint8

// The kinds of options. An Optional argument stands in the same word as its option.
const (
	None Argument = iota
	Required
	Optional
)

// Long is a long option.
type Long struct {
	Name     string
	Argument Argument
	// Value is what Next reports: the letter of the short option that means the same, or any other number.
	Value rune
}

// Options are all that a program understands.
type Options struct {
	// Short are letters, each followed by ":" when it takes an argument and "::" when that is optional; "+" in
	// front ends the options at the first word that is none.
	Short string
	Long  []Long
	// Posix does what "+" does; it is for POSIXLY_CORRECT in the environment.
	Posix bool
}

// Error is a word that cannot be understood. Its text is what getopt_long prints, but for the newline at the end.
type Error struct {
	text string
	// Option is the letter or the value of the option it is about; 0 when that is unknown.
	Option rune
}

func (e *Error) Error() string { return e.text }

// Parser goes through a command line.
type Parser struct {
	program string
	rest    []string // words not looked at
	letters string   // what is left of a word of short options
	passed  []string // words that are no options
	ended   bool

	short   map[rune]Argument
	long    []Long
	inOrder bool

	arg    string
	hasArg bool
}

// New makes a Parser of a command line, whose first word is the name of the program, for the messages.
func New(args []string, o Options) *Parser {
	p := &Parser{long: o.Long, inOrder: o.Posix, short: map[rune]Argument{}}
	if len(args) > 0 {
		p.program, p.rest = args[0], args[1:]
	}
	short := o.Short
	if strings.HasPrefix(short, "+") {
		p.inOrder, short = true, short[1:]
	}
	for short != "" {
		letter, rest := rune(short[0]), short[1:]
		short = strings.TrimLeft(rest, ":")
		p.short[letter] = Argument(min(len(rest)-len(short), int(Optional)))
	}
	return p
}

// Next returns the value of the next option; ok is false when there are no more. After an error, which is a
// *Error, it can be called again, as the C function can.
func (p *Parser) Next() (value rune, ok bool, err error) {
	p.arg, p.hasArg = "", false
	if p.letters != "" {
		return p.letter()
	}
	for !p.ended && len(p.rest) > 0 {
		word := p.rest[0]
		if len(word) < 2 || word[0] != '-' {
			if p.inOrder {
				break
			}
			p.passed, p.rest = append(p.passed, word), p.rest[1:]
			continue
		}
		p.rest = p.rest[1:]
		switch {
		case word == "--":
			p.ended = true
		case word[1] == '-':
			return p.longOption(word[2:])
		default:
			p.letters = word[1:]
			return p.letter()
		}
	}
	p.ended = true
	return 0, false, nil
}

// Arg is the argument of the option that Next returned; ok is false when it has none.
func (p *Parser) Arg() (arg string, ok bool) { return p.arg, p.hasArg }

// Args are the words that are no options, after Next said that there are no more.
func (p *Parser) Args() []string { return append(p.passed[:len(p.passed):len(p.passed)], p.rest...) }

// letter takes the next short option of a word.
func (p *Parser) letter() (rune, bool, error) {
	// A byte, as in C: a letter beyond ASCII is as many invalid options as it has bytes.
	b := p.letters[0]
	p.letters = p.letters[1:]
	takes, known := p.short[rune(b)]
	if !known || b == ':' || b == ';' {
		return 0, true, p.fail(rune(b), "invalid option -- '%s'", string([]byte{b}))
	}
	if takes == None {
		return rune(b), true, nil
	}
	if p.letters != "" {
		p.arg, p.hasArg, p.letters = p.letters, true, ""
	} else if takes == Required && !p.takeNext() {
		return 0, true, p.fail(rune(b), "option requires an argument -- '%c'", b)
	}
	return rune(b), true, nil
}

// longOption takes a word, of which the two dashes are gone.
func (p *Parser) longOption(word string) (rune, bool, error) {
	name, arg, hasArg := strings.Cut(word, "=")
	l, err := p.find(name, word)
	if err != nil {
		return 0, true, err
	}
	switch {
	case hasArg && l.Argument == None:
		return 0, true, p.fail(l.Value, "option '--%s' doesn't allow an argument", l.Name)
	case hasArg:
		p.arg, p.hasArg = arg, true
	case l.Argument == Required && !p.takeNext():
		return 0, true, p.fail(l.Value, "option '--%s' requires an argument", l.Name)
	}
	return l.Value, true, nil
}

// find returns the option that name stands for, whole or as an abbreviation.
func (p *Parser) find(name, word string) (Long, error) {
	var found []Long
	same := true
	for _, l := range p.long {
		if l.Name == name {
			return l, nil
		}
		if strings.HasPrefix(l.Name, name) {
			found = append(found, l)
			same = same && l.Argument == found[0].Argument && l.Value == found[0].Value
		}
	}
	if len(found) == 0 {
		return Long{}, p.fail(0, "unrecognized option '--%s'", word)
	}
	if !same {
		var names strings.Builder
		for _, l := range found {
			fmt.Fprintf(&names, " '--%s'", l.Name)
		}
		return Long{}, p.fail(0, "option '--%s' is ambiguous; possibilities:%s", word, names.String())
	}
	return found[0], nil
}

// takeNext makes the next word the option's argument, whatever it is.
func (p *Parser) takeNext() bool {
	if len(p.rest) == 0 {
		return false
	}
	p.arg, p.hasArg, p.rest = p.rest[0], true, p.rest[1:]
	return true
}

func (p *Parser) fail(option rune, format string, args ...any) error {
	return &Error{text: p.program + ": " + fmt.Sprintf(format, args...), Option: option}
}

package getopt_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/compat/getopt"
)

var options = getopt.Options{
	Short: "ab:c::6",
	Long: []getopt.Long{
		{"alpha", getopt.None, 'a'}, {"beta", getopt.Required, 'b'}, {"beta-two", getopt.Optional, 200},
		{"gamma", getopt.Optional, 'c'}, {"enable-ipv6", getopt.None, '6'}, {"enable-sandbox", getopt.None, 201},
		{"create-sandbox", getopt.None, 201}, {"creation-sandbox", getopt.None, 201},
	},
}

// read goes through a command line and writes down what it finds, errors included.
func read(args []string, o getopt.Options) (got []string) {
	p := getopt.New(args, o)
	for {
		v, ok, err := p.Next()
		if !ok {
			return append(got, fmt.Sprint(p.Args()))
		}
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		name := string(v)
		if v >= 200 {
			name = fmt.Sprint(v)
		}
		if arg, ok := p.Arg(); ok {
			name += "=" + arg
		}
		got = append(got, name)
	}
}

func TestParse(t *testing.T) {
	for _, row := range []struct {
		line string
		want []string
	}{
		{"", []string{"[]"}},
		{"1234 tap0", []string{"[1234 tap0]"}},
		{"-a 1234 -6 tap0 --alpha", []string{"a", "6", "a", "[1234 tap0]"}},
		{"-a6b3 -b 4 -b -a", []string{"a", "6", "b=3", "b=4", "b=-a", "[]"}},
		{"-c -cx -c x", []string{"c", "c=x", "c", "[x]"}},
		{"--beta 5 --beta=6 --beta --", []string{"b=5", "b=6", "b=--", "[]"}},
		{"--beta= x", []string{"b=", "[x]"}},
		{"--gamma x --gamma=x", []string{"c", "c=x", "[x]"}},
		{"--g --al --enable-i", []string{"c", "a", "6", "[]"}},
		{"x -- -a --beta", []string{"[x -a --beta]"}},
		{"- -a", []string{"a", "[-]"}},
		{"--creat", []string{"201", "[]"}}, // two names of one option
		{"--enable", []string{"p: option '--enable' is ambiguous; possibilities: '--enable-ipv6' '--enable-sandbox'", "[]"}}, //
		{"--beta-t=1 --bet=2", []string{"200=1", "p: option '--bet=2' is ambiguous; possibilities: '--beta' '--beta-two'", "[]"}},
		{"--foo=1 x", []string{"p: unrecognized option '--foo=1'", "[x]"}},
		{"--alpha=1", []string{"p: option '--alpha' doesn't allow an argument", "[]"}},
		{"--al=1", []string{"p: option '--alpha' doesn't allow an argument", "[]"}},
		{"--beta", []string{"p: option '--beta' requires an argument", "[]"}},
		{"-b", []string{"p: option requires an argument -- 'b'", "[]"}},
		{"-axa -:", []string{"a", "p: invalid option -- 'x'", "a", "p: invalid option -- ':'", "[]"}},
	} {
		if got := read(append([]string{"p"}, strings.Fields(row.line)...), options); !slices.Equal(got, row.want) {
			t.Errorf("%q:\n got %q\nwant %q", row.line, got, row.want)
		}
	}
}

func TestParseInOrder(t *testing.T) {
	inOrder := options
	inOrder.Short = "+" + options.Short
	posix := options
	posix.Posix = true
	for _, o := range []getopt.Options{inOrder, posix} {
		got := read([]string{"p", "-a", "sh", "-c", "--", "true"}, o)
		if want := []string{"a", "[sh -c -- true]"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestErrorNamesOption(t *testing.T) {
	for line, want := range map[string]rune{"-b": 'b', "--beta": 'b', "-x": 'x', "--foo": 0} {
		_, _, err := getopt.New([]string{"p", line}, options).Next()
		if e, ok := err.(*getopt.Error); !ok || e.Option != want {
			t.Errorf("%s: error %#v, want of option %q", line, err, want)
		}
	}
}

// The C library itself says what is right: getopt(1) is its function for shells.
func TestParseAsGetopt(t *testing.T) {
	o := getopt.Options{Short: "ab:c::", Long: []getopt.Long{
		{"alpha", getopt.None, 0}, {"beta", getopt.Required, 1}, {"beta-two", getopt.Optional, 2}, {"gamma", getopt.Optional, 3},
	}}
	words := []string{"-a", "-b", "-c", "-bx", "-cx", "-ab", "-xa", "-", "--", "x", "--a", "--alpha=1", "--be", "--beta", "--beta=2",
		"--beta=", "--beta-", "--beta-two=", "--g", "--gamma=3", "--delta", "--delta=4", "---", "--=", "-a-"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		args := []string{"p"}
		for range rng.IntN(6) {
			args = append(args, words[rng.IntN(len(words))])
		}
		order := []string{"", "+"}[rng.IntN(2)]
		cmd := exec.Command("getopt", append([]string{"-u", "-n", "p", "-o", order + o.Short, "-l", "alpha,beta:,beta-two::,gamma::", "--"}, args[1:]...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		want, err := cmd.CombinedOutput()
		if _, failed := err.(*exec.ExitError); err != nil && !failed {
			t.Fatal(err)
		}
		q := o
		q.Short = order + o.Short
		if got := unquoted(args, q); got != string(want) {
			t.Fatalf("%q %q:\n got %q\nwant %q", order, args, got, want)
		}
	}
}

// unquoted is what `getopt -u` prints: errors as they come, then the options and words as they are understood.
func unquoted(args []string, o getopt.Options) string {
	var errs, line strings.Builder
	p := getopt.New(args, o)
	for {
		v, ok, err := p.Next()
		if !ok {
			break
		}
		if err != nil {
			errs.WriteString(err.Error() + "\n")
			continue
		}
		takes := getopt.None
		if v < 10 {
			line.WriteString(" --" + o.Long[v].Name)
			takes = o.Long[v].Argument
		} else {
			line.WriteString(" -" + string(v))
			takes = map[rune]getopt.Argument{'b': getopt.Required, 'c': getopt.Optional}[v]
		}
		if takes != getopt.None {
			arg, _ := p.Arg()
			line.WriteString(" " + arg)
		}
	}
	line.WriteString(" --")
	for _, a := range p.Args() {
		line.WriteString(" " + a)
	}
	return errs.String() + line.String() + "\n"
}

// Whatever the words are, each is looked at once and none is lost.
func FuzzParse(f *testing.F) {
	f.Add("-a\x00--beta=1\x00x", "ab:c::", false)
	f.Add("--\x00--be\x00-", "+::", true)
	f.Fuzz(func(t *testing.T, line, short string, posix bool) {
		args := strings.Split(line, "\x00")
		o := options
		o.Short, o.Posix = short, posix
		p := getopt.New(args, o)
		for n := 0; ; n++ {
			v, ok, err := p.Next()
			if n > len(line)+1 {
				t.Fatal("there is no end to the options")
			}
			if !ok {
				break
			}
			if err != nil && v != 0 {
				t.Fatalf("value %q beside error %v", v, err)
			}
		}
		if _, ok, _ := p.Next(); ok {
			t.Error("there are options after the last")
		}
		rest := p.Args()
		for _, a := range rest {
			i := slices.Index(args, a)
			if i < 0 {
				t.Fatalf("%q is no word of %q", a, args)
			}
			args = slices.Delete(slices.Clone(args), 0, i+1) // in order
		}
	})
}

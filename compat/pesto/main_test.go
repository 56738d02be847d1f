package pesto

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// server is a pasta that has two interfaces.
type server struct {
	path   string
	have   []Interface
	answer string // sent instead of taking an update
	wg     sync.WaitGroup
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{path: filepath.Join(t.TempDir(), "pasta.sock"), have: state(t)}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(t, c)
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.wg.Wait()
	})
	return s
}

func (s *server) serve(t *testing.T, c net.Conn) {
	defer c.Close()
	if err := WriteState(c, s.have); err != nil {
		t.Error(err)
		return
	}
	// A client that has refused its own command line hangs up, with a reset or without.
	want, ok, err := ReadUpdate(c, s.have)
	if err != nil || !ok {
		return
	}
	if s.answer != "" {
		_, _ = c.Write([]byte(s.answer))
		return
	}
	s.have = want
}

func pesto(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(append([]string{"pesto"}, args...), &o, &e)
	return code, o.String(), e.String()
}

// rules is what pesto shows, in one line for each rule.
func (s *server) rules(t *testing.T) string {
	t.Helper()
	code, out, errs := pesto(s.path)
	if code != 0 {
		t.Fatalf("code %d: %s", code, errs)
	}
	var lines []string
	for _, l := range strings.Split(out, "\n")[1:] {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "; ")
}

const (
	hostRules   = "HOST; TCP [127.0.0.1]%lo:8080-8081  =>  80-81; UDP [::]:53  =>  fd00::2:5353"
	spliceRules = "SPLICE; TCP [*]%lo:5432  =>  5432; UDP [*]%lo:53  =>  53  (auto-scan)"
)

func TestChanges(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{nil, hostRules + "; " + spliceRules},
		{[]string{"--add", "-t", "0.0.0.0/9000:10.89.0.2/80", "-t", "[::]/9000:[fd00::2]/80"},
			hostRules + "; TCP [0.0.0.0]:9000  =>  10.89.0.2:80; TCP [::]:9000  =>  fd00::2:80; " + spliceRules},
		{[]string{"--delete", "-t", "127.0.0.1%lo/8080-8081:80-81"}, "HOST; UDP [::]:53  =>  fd00::2:5353; " + spliceRules},
		{[]string{"-t", "22"}, "HOST; TCP [*]:22  =>  22; " + spliceRules},
		{[]string{"-t", "none"}, "HOST; " + spliceRules},
		{[]string{"-t", "22", "-u", "23", "-T", "24"}, "HOST; TCP [*]:22  =>  22; UDP [*]:23  =>  23; SPLICE; TCP [*]%lo:24  =>  24"},
		{[]string{"-U", "53"}, hostRules + "; SPLICE; UDP [*]%lo:53  =>  53"},
		{[]string{"-C", "SPLICE"}, hostRules + "; SPLICE"},
		{[]string{"-C", "HOST", "-A", "--tcp-ports=1", "-D", "-t1"}, "HOST; " + spliceRules},
		{[]string{"-A", "-t", "1", "-D", "-u", "[::]/53:[fd00::2]/5353"},
			"HOST; TCP [127.0.0.1]%lo:8080-8081  =>  80-81; TCP [*]:1  =>  1; " + spliceRules},
	}
	for _, tt := range tests {
		s := startServer(t)
		if code, _, errs := pesto(append(tt.args, s.path)...); code != 0 || errs != "" {
			t.Errorf("%q: code %d: %s", tt.args, code, errs)
		}
		if got := s.rules(t); got != tt.want {
			t.Errorf("%q: got\n%s\nwant\n%s", tt.args, got, tt.want)
		}
	}
}

func TestShow(t *testing.T) {
	s := startServer(t)
	code, out, _ := pesto("-s", "-C", "SPLICE", s.path)
	want := []string{"Previous configuration (" + s.path + ")\n  HOST\n", "Updated configuration (" + s.path + ")\n"}
	if code != 0 || !strings.HasPrefix(out, want[0]) || !strings.Contains(out, want[1]) || !strings.HasSuffix(out, "  SPLICE\n") {
		t.Errorf("code %d:\n%s", code, out)
	}
	if code, out, _ := pesto(s.path); code != 0 || !strings.HasPrefix(out, "passt/pasta configuration ("+s.path+")\n") {
		t.Errorf("code %d:\n%s", code, out)
	}
	if code, _, errs := pesto("-d", s.path); code != 0 || !strings.Contains(errs, "PIF 1: HOST, 2 rules") {
		t.Errorf("code %d: %s", code, errs)
	}
}

func TestRefused(t *testing.T) {
	s := startServer(t)
	tests := []struct {
		args []string
		want string
	}{
		{[]string{}, "Usage: pesto [OPTION]... PATH"},
		{[]string{"a", "b"}, "Usage: pesto"},
		{[]string{"--nonsense", s.path}, "pesto: unrecognized option '--nonsense'\nUsage: pesto"},
		{[]string{"-t"}, "pesto: option requires an argument -- 't'"},
		{[]string{s.path + ".none"}, "Failed to connect to " + s.path + ".none: no such file or directory"},
		{[]string{"/" + strings.Repeat("x", 200)}, "Invalid socket path"},
		{[]string{"-C", "TAP", s.path}, "Unsupported pif name TAP"},
		{[]string{"-t", "x", s.path}, "Invalid port specifier 'x'"},
		{[]string{"-A", "-t", "8080", s.path}, "conflict"},
		{[]string{"-D", "-t", "8080", s.path}, "Unable to delete rule"},
	}
	for _, tt := range tests {
		if code, _, errs := pesto(tt.args...); code != 1 || !strings.Contains(errs, tt.want) {
			t.Errorf("%q: code %d: %s", tt.args, code, errs)
		}
	}
	if got := s.rules(t); got != hostRules+"; "+spliceRules {
		t.Errorf("changed to %s", got)
	}
}

// TestAnswer: our server says why it refuses, and our client passes it on, without what terminals obey.
func TestAnswer(t *testing.T) {
	s := startServer(t)
	s.answer = "Couldn't listen on \x1b[31mport 80"
	if code, _, errs := pesto("-t", "80", s.path); code != 1 || errs != "Couldn't listen on [31mport 80\n" {
		t.Errorf("code %d: %q", code, errs)
	}
}

func TestHelp(t *testing.T) {
	for arg, want := range map[string]string{"--help": "Usage: pesto", "-h": "--tcp-ns SPEC", "--version": "pesto 2026_07_23"} {
		if code, out, errs := pesto(arg); code != 0 || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%s: code %d: %s%s", arg, code, out, errs)
		}
	}
}

package pesto

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/usernet/usernet/compat/pasta/forward"
)

const allCaps = forward.CapIPv4 | forward.CapIPv6 | forward.CapTCP | forward.CapUDP | forward.CapScan | forward.CapDevice

// state is what a pasta with two rules for each side has.
func state(t *testing.T) []Interface {
	t.Helper()
	have := []Interface{{1, Host, forward.Table{Caps: allCaps}}, {3, Splice, forward.Table{Caps: allCaps}}}
	for _, s := range []struct {
		i    int
		o    forward.Option
		spec string
	}{{0, forward.InTCP, "127.0.0.1%lo/8080-8081:80-81"}, {0, forward.InUDP, "[::]/53:[fd00::2]/5353"}, {1, forward.OutTCP, "5432"}, {1, forward.OutUDP, "53,auto"}} {
		if err := have[s.i].Table.Parse(s.o, forward.Add, s.spec, forward.Ports{First: 32768, Last: 60999}); err != nil {
			t.Fatal(err)
		}
	}
	return have
}

func TestStateRoundTrip(t *testing.T) {
	want := state(t)
	var b bytes.Buffer
	if err := WriteState(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadState(&b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

// TestLayout holds the bytes to those of the original's structs.
func TestLayout(t *testing.T) {
	have := state(t)[:1]
	have[0].Table.Rules = have[0].Table.Rules[:1]
	var b bytes.Buffer
	if err := WriteState(&b, have); err != nil {
		t.Fatal(err)
	}
	want := "626173696c3a7300" + "00000002" + "00000080" + "00000010" + // hello
		"01" + "484f5354" + strings.Repeat("00", 124) + "0000003f" + "00000001" + // HOST
		"00000000000000000000ffff7f000001" + strings.Repeat("00", 16) + "6c6f" + strings.Repeat("00", 14) +
		"1f90" + "1f91" + "0050" + "06" + "00" +
		"00"
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUpdateRoundTrip(t *testing.T) {
	have := state(t)
	want := state(t)
	want[0].Table.Rules = want[0].Table.Rules[1:]
	var b bytes.Buffer
	if err := WriteUpdate(&b, want[:1]); err != nil {
		t.Fatal(err)
	}
	got, ok, err := ReadUpdate(&b, have)
	if err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, %v\nwant %+v", got, ok, err, want)
	}
	if !reflect.DeepEqual(have, state(t)) {
		t.Error("what the server has was changed")
	}
	if _, ok, err := ReadUpdate(&b, have); ok || err != nil {
		t.Errorf("a client that hangs up: %v, %v", ok, err)
	}
}

// update is the bytes of an update with one rule that change makes worse.
func update(t *testing.T, change func(*forward.Rule)) []byte {
	t.Helper()
	r := forward.Rule{Addr: netip.IPv6Unspecified(), First: 80, Last: 80, ToPort: 80, Proto: forward.TCP, Flags: forward.DualStack}
	change(&r)
	var b bytes.Buffer
	if err := WriteUpdate(&b, []Interface{{1, Host, forward.Table{Rules: []forward.Rule{r}}}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileUpdate(t *testing.T) {
	good := update(t, func(*forward.Rule) {})
	unterminated := bytes.Clone(good)
	copy(unterminated[5+32:], "0123456789abcdef")
	tests := map[string]struct {
		bytes []byte
		want  string
	}{
		"cut":              {good[:20], "unexpected EOF"},
		"no end":           {good[:len(good)-1], "EOF"},
		"no count":         {[]byte{1}, "EOF"},
		"unknown":          {[]byte{2, 0, 0, 0, 0, 0}, "non-existent table"},
		"twice":            {[]byte{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}, "twice"},
		"too many":         {[]byte{1, 0, 0, 1, 1}, "Received 257 rules (maximum 256)"},
		"huge":             {[]byte{1, 0xff, 0xff, 0xff, 0xff}, "Received 4294967295 rules"},
		"interface name":   {unterminated, "not NULL terminated"},
		"protocol":         {update(t, func(r *forward.Rule) { r.Proto = 1 }), "Unsupported protocol"},
		"flags":            {update(t, func(r *forward.Rule) { r.Flags = 0xff }), "invalid flags"},
		"port 0":           {update(t, func(r *forward.Rule) { r.First = 0 }), "port 0"},
		"backwards":        {update(t, func(r *forward.Rule) { r.First = 81 }), "invalid port range"},
		"interface no one": {update(t, func(r *forward.Rule) { r.Device = "a/b" }), "Invalid interface name"},
	}
	for name, tt := range tests {
		want, ok, err := ReadUpdate(bytes.NewReader(tt.bytes), state(t))
		if err == nil || ok || want != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestHostileServer(t *testing.T) {
	var good bytes.Buffer
	if err := WriteState(&good, state(t)); err != nil {
		t.Fatal(err)
	}
	change := func(at int, with ...byte) []byte {
		b := bytes.Clone(good.Bytes())
		copy(b[at:], with)
		return b
	}
	second := helloSize + 1 + nameSize + 8 + 2*ruleSize
	tests := map[string]struct {
		bytes []byte
		want  string
	}{
		"nothing":        {nil, "Couldn't read server greeting"},
		"magic":          {change(0, 'x'), "Bad magic number from server"},
		"version 0":      {change(11, 0), "Unsupported experimental server protocol"},
		"version 1":      {change(11, 1), "Unsupported server protocol version 1 < 2"},
		"version 3":      {change(11, 3), "Unknown server protocol version 3 > 2"},
		"name size":      {change(15, 64), "Server has unexpected pif name size (64 not 128)"},
		"interface size": {change(19, 15), "Server has unexpected IFNAMSIZ (15 not 16)"},
		"no interfaces":  {good.Bytes()[:helloSize], "Error reading from control socket"},
		"cut":            {good.Bytes()[:helloSize+200], "Error reading from control socket"},
		"name":           {change(helloSize+1, bytes.Repeat([]byte{'x'}, nameSize)...), "not NULL terminated"},
		"rules":          {change(helloSize+1+nameSize+4, 0xff), "Too many forwarding rules"},
		"same id":        {change(second, 1), "duplicate interface identifier"},
		"same name":      {change(second+1, []byte("HOST\x00\x00")...), "duplicate interface name"},
	}
	for name, tt := range tests {
		if _, err := ReadState(bytes.NewReader(tt.bytes)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	many := append(state(t), Interface{4, "A", forward.Table{}}, Interface{5, "B", forward.Table{}})
	good.Reset()
	if err := WriteState(&good, many); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(&good); err == nil || !strings.Contains(err.Error(), "more pifs than pesto can manage") {
		t.Error(err)
	}
}

// FuzzReadUpdate: whatever a client sends, what is taken is a table that could be made by hand.
func FuzzReadUpdate(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		want, ok, err := ReadUpdate(bytes.NewReader(b), state(t))
		if err != nil || !ok {
			return
		}
		for _, i := range want {
			again := forward.Table{Caps: i.Table.Caps}
			for _, r := range i.Table.Rules {
				if err := again.Add(r); err != nil {
					t.Errorf("took %v: %v", r, err)
				}
			}
		}
	})
}

// FuzzReadState: whatever a server sends, it can be shown and sent back.
func FuzzReadState(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		have, err := ReadState(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := showState(&out, "", have); err != nil {
			t.Error(err)
		}
		var again bytes.Buffer
		if err := WriteState(&again, have); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadState(&again); err != nil || !reflect.DeepEqual(back, have) {
			t.Errorf("%+v came back as %+v, %v", have, back, err)
		}
	})
}

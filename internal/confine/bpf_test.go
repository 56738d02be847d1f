package confine

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/net/bpf"
)

const (
	testArch = 0xc000003e
	testDeny = 0x00050001
)

// seccompCall is the input of a filter.
type seccompCall struct {
	nr, arch uint32
	args     [6]uint64
}

// bytes lays a call out for bpf.VM, which loads words in network order where the kernel loads them in its own.
func (c seccompCall) bytes() []byte {
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[0:], c.nr)
	binary.BigEndian.PutUint32(b[4:], c.arch)
	for i, a := range c.args {
		binary.BigEndian.PutUint32(b[lowWord(uint32(i)):], uint32(a))
		binary.BigEndian.PutUint32(b[highWord(uint32(i)):], uint32(a>>32))
	}
	return b
}

// slowVerdict is what the rules say, read as they are written.
func slowVerdict(rules []rule, c seccompCall) uint32 {
	if c.arch != testArch {
		return testDeny
	}
	for _, r := range rules {
		if r.nr != c.nr {
			continue
		}
		if len(r.any) == 0 {
			return retAllow
		}
		for _, alternative := range r.any {
			hold := true
			for _, t := range alternative {
				hold = hold && c.args[t.arg]&t.mask == t.value
			}
			if hold {
				return retAllow
			}
		}
		return testDeny
	}
	return testDeny
}

func testVM(t testing.TB, rules []rule) *bpf.VM {
	t.Helper()
	p := assemble(testArch, rules, testDeny)
	if _, err := bpf.Assemble(p); err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(p)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// The real rules against random calls whose arguments are often those of a rule, or one bit off.
func TestFilterAgainstSlow(t *testing.T) {
	rules := allowed()
	vm := testVM(t, rules)
	r := rand.New(rand.NewPCG(1, 2))
	allowedCalls := 0
	for range 50_000 {
		c := randomCall(r, rules)
		got, err := vm.Run(c.bytes())
		if err != nil {
			t.Fatal(err)
		}
		want := slowVerdict(rules, c)
		if uint32(got) != want {
			t.Fatalf("call %+v: filter says %#x, rules say %#x", c, got, want)
		}
		if want == retAllow {
			allowedCalls++
		}
	}
	if allowedCalls < 1000 {
		t.Errorf("only %d of the calls were allowed ones; the comparison says little", allowedCalls)
	}
}

func randomCall(r *rand.Rand, rules []rule) seccompCall {
	c := seccompCall{nr: r.Uint32N(500), arch: testArch}
	for i := range c.args {
		// Small numbers are numbers of system calls too: what a filter that falls through would take them for.
		c.args[i] = uint64(r.Uint32N(500))
	}
	if r.IntN(20) == 0 {
		c.arch = r.Uint32()
	}
	if r.IntN(4) == 0 {
		return c
	}
	pick := rules[r.IntN(len(rules))]
	c.nr = pick.nr
	if len(pick.any) > 0 {
		for _, t := range pick.any[r.IntN(len(pick.any))] {
			c.args[t.arg] = t.value | r.Uint64()&^t.mask
			if r.IntN(8) == 0 {
				c.args[t.arg] ^= 1 << r.IntN(64)
			}
		}
	}
	if r.IntN(20) == 0 {
		c.nr |= 1 << 30 // x32
	}
	return c
}

// A conditional jump skips 255 instructions at most, and no rule is there twice.
func TestRulesFit(t *testing.T) {
	seen := make(map[uint32]bool)
	for _, r := range allowed() {
		if n := len(block(r, testDeny)); n > 255 {
			t.Errorf("the rule for call %d has %d instructions", r.nr, n)
		}
		if seen[r.nr] {
			t.Errorf("call %d has two rules; the second is never reached", r.nr)
		}
		seen[r.nr] = true
	}
}

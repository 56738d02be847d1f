package confine

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// # Theory of operation
//
// A seccomp filter is a classic BPF program over struct seccomp_data:
//
//	0 nr  4 arch  8 instruction pointer (8 bytes)  16 args[6] (8 bytes each)
//
// Ours is a list of blocks, one per rule, each beginning with the system call's number in the
// accumulator:
//
//	load arch; not ours: deny          (32-bit calls have other numbers)
//	load nr
//	block: not this nr: next block
//	       no alternatives: allow
//	       each alternative: all its tests hold: allow; otherwise the next alternative
//	       deny
//	deny
//
// A block whose number matched always decides. It never falls through to the next, where the accumulator would hold an
// argument, which the caller chooses, in place of the number: that is how a filter gets a hole.
//
// x32 calls on amd64 have bit 30 set in their number and match no rule. The kernel remembers for each number
// whether the verdict depends on arguments (since 5.11), so the plain rules, which are the hot ones, cost a bit
// test whatever their place in the list.

// rule allows one system call.
type rule struct {
	nr uint32
	// any lists the alternatives; none at all allows the call whatever its arguments.
	any []tests
}

// tests hold when each of them does.
type tests []test

// test holds when args[arg] & mask == value.
type test struct {
	arg         uint32
	mask, value uint64
}

// assemble makes the filter of rules for one architecture.
func assemble(arch uint32, rules []rule, deny uint32) []bpf.Instruction {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch, SkipTrue: 1},
		bpf.RetConstant{Val: deny},
		bpf.LoadAbsolute{Off: 0, Size: 4},
	}
	for _, r := range rules {
		b := block(r, deny)
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: r.nr, SkipTrue: uint8(len(b))})
		p = append(p, b...)
	}
	return append(p, bpf.RetConstant{Val: deny})
}

// block is what decides once the number has matched. It stays under the 255 instructions a conditional
// jump can skip; a test walks all rules.
func block(r rule, deny uint32) []bpf.Instruction {
	allow := bpf.RetConstant{Val: retAllow}
	if len(r.any) == 0 {
		return []bpf.Instruction{allow}
	}
	var b []bpf.Instruction
	for _, alternative := range r.any {
		var words []word
		for _, t := range alternative {
			words = append(words, t.words()...)
		}
		for i, w := range words {
			// A word that differs jumps behind this alternative's allow.
			b = append(b,
				bpf.LoadAbsolute{Off: w.off, Size: 4},
				bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: w.mask},
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: w.value, SkipFalse: uint8(3*(len(words)-1-i) + 1)})
		}
		b = append(b, allow)
	}
	return append(b, bpf.RetConstant{Val: deny})
}

// word is one half of a test: BPF computes with 32 bits.
type word struct{ off, mask, value uint32 }

// words leaves out a half that every value passes.
func (t test) words() []word {
	var w []word
	if hi := uint32(t.mask >> 32); hi != 0 {
		w = append(w, word{highWord(t.arg), hi, uint32(t.value >> 32)})
	}
	if lo := uint32(t.mask); lo != 0 {
		w = append(w, word{lowWord(t.arg), lo, uint32(t.value)})
	}
	return w
}

// lowWord and highWord are the offsets of an argument's halves in this machine's byte order.
func lowWord(arg uint32) uint32 {
	if littleEndian {
		return 16 + 8*arg
	}
	return 20 + 8*arg
}

func highWord(arg uint32) uint32 { return 36 + 16*arg - lowWord(arg) }

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

package gateway

import (
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

// served has t serve n times those that have news, of which each moves what move says, and returns how much each moved.
func served(t *turns, n int, move func(*flow) int, news func(f *flow) bool) map[*flow]int {
	all := make(map[*flow]int)
	for range n {
		f := t.next()
		did := move(f)
		all[f] += did
		if news(f) {
			t.add(f)
		}
		t.spend(f, did)
	}
	return all
}

func always(*flow) bool { return true }

// stream is a flow that moves much.
func stream() *flow {
	f := new(flow)
	f.stream.Store(true)
	return f
}

// TestTurnsAreKept: a stream goes on while it has news and credit, and then the next one begins.
func TestTurnsAreKept(t *testing.T) {
	var l turns
	a, b := stream(), stream()
	l.add(a)
	l.add(b)
	var order []*flow
	served(&l, 4*(roundBytes/burstBytes), func(f *flow) int {
		order = append(order, f)
		return burstBytes - workBytes
	}, always)
	for i, f := range order {
		if want := []*flow{a, b}[i/(roundBytes/burstBytes)%2]; f != want {
			t.Fatalf("work %d is on another stream than the one whose turn it is", i)
		}
	}
}

// TestTurnsAreFair: streams move as much as each other over many rounds, in whatever pieces, and whether or not their news stop in
// the middle of a turn.
func TestTurnsAreFair(t *testing.T) {
	var l turns
	pieces := make(map[*flow]int)
	pauses, late := make(map[*flow]int), make(map[*flow]int)
	for i := range 8 {
		f := stream()
		pieces[f] = burstBytes >> (i % 2)
		pauses[f] = i / 2 * 2 // each so manieth time its news come one work later
		l.add(f)
	}
	var waits []*flow
	count := 0
	all := served(&l, 40000, func(f *flow) int {
		for _, w := range waits {
			l.add(w)
		}
		waits = waits[:0]
		return pieces[f] - workBytes
	}, func(f *flow) bool {
		if count++; pauses[f] > 0 {
			if late[f]++; late[f]%pauses[f] == 0 {
				waits = append(waits, f)
				return false
			}
		}
		return true
	})
	sum := 0
	for f := range pieces {
		sum += all[f]
	}
	mean := sum / len(pieces)
	for f, piece := range pieces {
		if got := all[f]; got < mean*8/10 || got > mean*12/10 {
			t.Errorf("the stream of pieces of %d, paused each %d: moved %d, the mean is %d", piece, pauses[f], got, mean)
		}
	}
}

// TestTurnsAreFairToContainers: a container with many streams moves no more than its neighbours with one, whether or not the news of a
// stream stop in the middle of a turn.
func TestTurnsAreFairToContainers(t *testing.T) {
	for _, pauses := range []bool{false, true} {
		var l turns
		add := func(container byte) {
			f := stream()
			f.owner = l2.MAC{5: container}
			l.add(f)
		}
		for range 1000 {
			add(1)
		}
		add(2)
		add(3)
		var waits []*flow
		count := 0
		all := served(&l, 20000, func(*flow) int {
			for _, w := range waits {
				l.add(w)
			}
			waits = waits[:0]
			return burstBytes - workBytes
		}, func(f *flow) bool {
			if count++; pauses && count%2 == 0 && f.owner[5] == 1 {
				waits = append(waits, f)
				return false
			}
			return true
		})
		by, sum := make(map[l2.MAC]int), 0
		for f, n := range all {
			by[f.owner] += n
			sum += n
		}
		for container, n := range by {
			if n < sum/3*9/10 || n > sum/3*11/10 {
				t.Errorf("pauses %v: container %v moved %d of %d", pauses, container, n, sum)
			}
		}
		if len(by) != 3 {
			t.Errorf("pauses %v: %d containers moved anything", pauses, len(by))
		}
	}
}

// TestTurnsDoNotAllocate: streams that take turns need no memory.
func TestTurnsDoNotAllocate(t *testing.T) {
	var l turns
	for i := range 4 {
		f := stream()
		f.owner = l2.MAC{5: byte(i % 2)}
		l.add(f)
	}
	if n := testing.AllocsPerRun(1000, func() { served1(&l) }); n != 0 {
		t.Errorf("a turn allocates %v times", n)
	}
}

// served1 has t serve one flow, which goes on to have news.
func served1(t *turns) {
	f := t.next()
	t.add(f)
	t.spend(f, burstBytes)
}

// TestSmallBeforeStreams: who sends little waits neither for those whose turn comes first nor for the end of a turn, and yet keeps
// nobody from theirs.
func TestSmallBeforeStreams(t *testing.T) {
	var l turns
	streams := []*flow{stream(), stream(), stream()}
	for _, f := range streams {
		l.add(f)
	}
	move := func(f *flow) int {
		if f.stream.Load() {
			return burstBytes
		}
		return 1
	}
	served(&l, 1, move, always)
	small := &flow{credit: firstCredit}
	l.add(small)
	if f := l.next(); f != small {
		t.Fatal("a new flow waits for a stream whose turn it is")
	}
	l.spend(small, 1)
	l.add(small)
	all := served(&l, 100000, move, always)
	mean := 0
	for _, f := range streams {
		mean += all[f] / len(streams)
	}
	for i, f := range streams {
		if all[f] < roundBytes || all[f] < mean*9/10 {
			t.Errorf("stream %d moved %d beside one that always has something small, the mean is %d", i, all[f], mean)
		}
	}
}

// TestForgottenTurn: a flow that ends with its turn and with news is not served any more.
func TestForgottenTurn(t *testing.T) {
	var l turns
	a, b := stream(), stream()
	l.add(a)
	l.add(b)
	if l.next() != a {
		t.Fatal("not first come first served")
	}
	l.add(a)
	l.forget(a)
	if f := l.next(); f != b {
		t.Fatal("the turn of a flow that is over goes on")
	}
	if l.spend(b, 0); !l.empty() {
		t.Error("there are flows with news that nobody told of")
	}
	for _, credit := range []int{0, 1} { // in queue and in owed
		f := stream()
		f.credit = credit
		l.add(f)
		l.forget(f)
		if l.next() != f {
			t.Fatal("not first come first served")
		}
		if l.spend(f, 0); l.turn == f {
			t.Errorf("a flow that is over, with credit %d, is kept", credit)
		}
	}
}

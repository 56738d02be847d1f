// Package instructions holds a gate: what the way of a packet costs in instructions, counted, and compared with what it cost
// when somebody looked last.
//
// # Theory of operation
//
// Time says how fast code is, and on a busy machine nothing else than how busy it is. How many instructions it executes is nobody
// else's doing. Virtual machines mostly lack the counters that perf reads; valgrind needs none, as it translates the program and counts in
// what it makes of it (cachegrind, its caches switched off). That is some 50 times slower than the program, so there are few iterations.
//
// What is counted are the benchmarks beside the code. Each runs twice, with more iterations the second time. The difference is what the
// iterations between cost; the start of the process, which is more than all of it, cancels out. In what is left
//
//   - there is no collection of garbage and no interrupting of goroutines, and there is one P (see settings);
//   - the processor is the plainest of its kind, whatever the machine has, because the standard library has several ways to
//     copy and to hash, and takes the one that suits the processor;
//   - nobody lingers (internal/sys), which is a matter of time: each run has a single CPU, where there is no lingering;
//   - the kernel's share is missing. Others count calls (TestSystemCallsPerMiB).
//
// Go's monitor thread comes to run every 10 ms or less, whatever the benchmark did meanwhile, and goroutines that wait for a socket find it
// ready sooner or later. On a busy machine that adds some instructions, so a count that is too high is repeated, and the least one holds. Of
// fourteen runs, most of them four at a time on two CPUs that others used too, the highest count was 4 % above the lowest at most for what
// stays in memory, 7 % for what goes through sockets, and 5 and 28 % for streams, of which more is moved at once when there is less CPU. The bounds
// are beyond that (rows_amd64_test.go).
//
// A count is of one compiler. A new version of Go may change any of them by some percent, and the table is then renewed: `make
// instructions` shows what is counted. So it is when a cost has a reason, which is told in the commit, or has become less.
package instructions

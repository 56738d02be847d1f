// Package pasta is usernet under the name of pasta: its command line, its texts and its defaults on the parts that
// every sandbox has.
//
// # Theory of operation
//
// Options is the command line (optable.go has the grammar). readHost looks at the host, and makePlan decides what the
// namespace is given (plan.go). Main makes it so, in one of two ways (run.go): an attached namespace is served by a
// process in the background, of which the one that was started waits to hear that all works; a command is run in
// namespaces of its own, in the foreground. Ports are two tables of rules (forward), which are turned into sockets
// and kept so by ports.go: from the start, as others listen (auto), and as pesto says (conf.go).
package pasta

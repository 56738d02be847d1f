// Package deptest holds the repository to its own structure. It has tests only.
//
// Dependencies point one way, and that is what keeps a packet's way readable and start-up short: the command line
// does not link the TCP stack, the TCP stack does not know there is a command line. rules_test.go lists the
// rules, each with its reason; files_test.go those about single files. A rule may speak of packages that do
// not exist yet. To make an exception is to change a rule here, where a reviewer sees it.
package deptest

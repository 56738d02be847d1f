// Package cli is usernet's command line: flags become configurations of shim and control, and what
// they say becomes text for people or JSON for programs.
//
// Everything a flag says is checked before anything on the host changes. Commands are functions of
// their arguments, environment and three files; nothing in the package is global, so tests run them
// as the binary does.
//
// Exit codes: run and attach follow Docker, 125 for a failure of usernet itself, 126 and 127 for a
// command that cannot be executed or found, and the command's own code otherwise. The other commands
// exit with 1 when they fail, and every command with 125 when its flags are wrong.
package cli

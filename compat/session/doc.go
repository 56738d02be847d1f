// Package session gives one namespace that somebody else made, or one open TAP, a private Network, for the front
// ends that take the place of other programs.
//
// # Theory of operation
//
// A session is what `usernet attach` is without its command line: shim makes or takes over the TAP in the namespace
// while control starts a datapath for its one Network, and both meet. The process that calls Start is control; the
// datapath is its child and ends with it, however it ends. No file is written, nothing is registered, so a session
// that is killed leaves nothing behind.
//
// A session without a namespace has its frames from a descriptor that its caller hands over: a TAP, or a socket on
// which each message is one frame.
//
// The session ends (Done) when its namespace does, when its TAP is gone, or when control can no longer work. What
// an end means, an exit code or a message, is the front end's affair; so are signals.
package session

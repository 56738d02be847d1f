package capture

import "github.com/usernet/usernet/stack/l2"

// Port returns a port that records what it is given and hands it on to p. With a nil Writer it is p itself.
func (c *Writer) Port(p l2.Port) l2.Port {
	if c == nil {
		return p
	}
	return &port{Port: p, c: c}
}

// port is an l2.Port with a capture in front.
type port struct {
	l2.Port
	c *Writer
}

// Output records before it sends: the receiver may answer from within, and the file shall have the
// question first.
func (p *port) Output(frames []l2.Frame) (sent int) {
	p.c.Record(frames)
	return p.Port.Output(frames)
}

// Input returns a function that records what a reader hands in and hands it on to next. With a nil Writer it
// is next itself.
func (c *Writer) Input(next func([]l2.Frame)) func([]l2.Frame) {
	if c == nil {
		return next
	}
	return func(frames []l2.Frame) {
		c.Record(frames)
		next(frames)
	}
}

package dnsproxy

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// appendFramed appends msg as it stands in a stream (RFC 1035 §4.2.2).
func appendFramed(b, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(msg))), msg...)
}

// pacer is told where in a message a splitter is, to set deadlines.
type pacer interface {
	beforeMessage()
	inMessage()
	keepWaiting() bool
}

// splitter cuts a stream into DNS messages. Its memory grows with the bytes that came, not with the
// length a client claims.
type splitter struct {
	r    io.Reader
	mem  []byte
	from int // mem[from:to] is read and not returned yet
	to   int
	err  error // of r
}

const firstRead = 2048

// next returns the next message, valid until the following call. The end of the stream between two
// messages, and an idle client, are io.EOF; inside a message the end is io.ErrUnexpectedEOF. p may be nil.
func (in *splitter) next(p pacer) ([]byte, error) {
	if p != nil {
		p.beforeMessage()
	}
	for begun := false; ; {
		have := in.mem[in.from:in.to]
		if len(have) >= 2 {
			if end := 2 + int(binary.BigEndian.Uint16(have)); len(have) >= end {
				in.from += end
				return have[2:end:end], nil
			}
		}
		if p != nil && !begun && len(have) > 0 {
			begun = true
			p.inMessage()
		}
		switch {
		case in.err == nil:
			in.fill()
		case len(have) == 0 && p != nil && errors.Is(in.err, os.ErrDeadlineExceeded):
			if !p.keepWaiting() {
				return nil, io.EOF
			}
			in.err = nil
			p.beforeMessage()
		case len(have) > 0 && errors.Is(in.err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, in.err
		}
	}
}

// fill reads once, behind what is there. A Read of nothing without an error is simply repeated, as
// io.Reader promises not to do that for ever.
func (in *splitter) fill() {
	switch {
	case in.to < len(in.mem):
	case in.from > 0:
		in.to = copy(in.mem, in.mem[in.from:in.to])
		in.from = 0
	default:
		in.mem = append(in.mem, make([]byte, max(firstRead, len(in.mem)))...)
	}
	n, err := in.r.Read(in.mem[in.to:])
	in.to += n
	in.err = err
}

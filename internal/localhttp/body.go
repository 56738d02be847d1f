package localhttp

import "io"

// body lifts the deadline for reading once it has been read to its end, or to an error.
type body struct {
	io.ReadCloser
	done func()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

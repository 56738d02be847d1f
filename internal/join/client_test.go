package join

import (
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// An answer to a join that makes no sense is an error, and what came along with it is closed.
func TestSenselessAnswer(t *testing.T) {
	path := socketPath(t)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var served sync.WaitGroup
	served.Go(func() {
		c, err := l.AcceptUnix()
		if err != nil {
			t.Error(err)
			return
		}
		s, err := newLink(c)
		if err != nil {
			t.Error(err)
			return
		}
		s.handle = func(q request) {
			q.close()
			if err := s.reply(q.message, 7, nil, w); err != nil {
				t.Error(err)
			}
			w.Close()
		}
		s.read()
		s.work.Wait()
	})
	if _, _, err := Dial(t.Context(), path, testConfig(), Options{}); err == nil || !strings.Contains(err.Error(), "decode") {
		t.Errorf("joined: %v", err)
	}
	served.Wait()
	r.SetReadDeadline(time.Now().Add(patience))
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the descriptor is still open: %v", err)
	}
}

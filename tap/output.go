package tap

import (
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/gso"
	"github.com/usernet/usernet/stack/l2"
)

// writer is the memory of one call of Output.
type writer struct {
	d     *Device
	vec   *sys.VecWriter
	head  [l2.VNetLen + l2.HeaderLen]byte
	split gso.Splitter
	emit  func(*l2.Frame)
	fate  drop.Reason // of the frame being cut
}

func newWriter(d *Device) (*writer, error) {
	vec, err := sys.NewVecWriter(d.f)
	if err != nil {
		return nil, err
	}
	w := &writer{d: d, vec: vec}
	w.emit = func(f *l2.Frame) {
		if w.fate == drop.None {
			w.fate = w.write(f)
		}
	}
	return w, nil
}

// Output writes frames to the device; see l2.Port. It never blocks. What the device does not take
// is counted: drop.TAPFull, drop.TAPDown, or drop.VNetBad for a VNet that contradicts its frame.
func (d *Device) Output(frames []l2.Frame) (sent int) {
	w, _ := d.writers.Get().(*writer)
	if w == nil {
		var err error
		if w, err = newWriter(d); err != nil {
			d.drops.AddN(drop.TAPDown, len(frames))
			return 0
		}
	}
	for i := range frames {
		if r := w.output(&frames[i]); r != drop.None {
			d.drops.Add(r)
		} else {
			sent++
		}
	}
	d.writers.Put(w)
	return sent
}

func (w *writer) output(f *l2.Frame) drop.Reason {
	if w.d.State() == Gone {
		return drop.TAPDown
	}
	if !w.d.mustSplit(f.VNet) {
		return w.write(f)
	}
	w.fate = drop.None
	if r := w.split.Split(f, w.emit); r != drop.None {
		return r
	}
	return w.fate
}

// mustSplit reports whether the kernel cannot take the frame as it is.
func (d *Device) mustSplit(v l2.VNet) bool {
	if !d.info.VNet {
		return gso.Needed(v)
	}
	return v.GSOType == l2.GSOUDPL4 && d.info.Offloads&offloadUSO == 0
}

func (w *writer) write(f *l2.Frame) drop.Reason {
	head := w.head[:w.d.headLen()]
	if w.d.info.VNet {
		f.VNet.Put(head)
		copy(head[l2.VNetLen:], f.Header[:])
	} else {
		copy(head, f.Header[:])
	}
	_, err := w.vec.Write(head, f.L3)
	if err == nil {
		if w.d.State() == Down {
			w.d.setState(Up, nil)
		}
		return drop.None
	}
	return w.d.writeError(err)
}

// writeError says why the kernel did not take a frame (drivers/net/tun.c, tun_get_user).
func (d *Device) writeError(err error) drop.Reason {
	switch err {
	case syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM:
		return drop.TAPFull
	case syscall.EINVAL, syscall.EMSGSIZE:
		return drop.VNetBad
	case syscall.EIO:
		d.setState(Down, err)
	case syscall.EBADFD, syscall.ENOTCONN, syscall.EPIPE: // the latter two from a socket, in tests
		d.setState(Gone, err)
	}
	return drop.TAPDown
}

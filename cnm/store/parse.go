package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
)

// Theory of operation
//
// parse reads a bbolt file (version 2) without mapping it and without trust. The file is pages; the first two are
// meta pages written by turns, of which the one with the higher transaction is in force. From it a tree of branch
// and leaf pages leads to the buckets, and each bucket is such a tree again, or lies inside its entry when it is
// small.
//
//	page    id 8  flags 2  count 2  overflow 4  then count elements, then what they point to
//	meta    magic 4  version 4  pagesize 4  flags 4  root 8  sequence 8  freelist 8  highwater 8  txid 8  checksum 8
//	branch  pos 4  ksize 4  page 8
//	leaf    flags 4  pos 4  ksize 4  vsize 4
//	bucket  root 8  sequence 8  then a leaf page where root is 0
//
// Numbers have the byte order of the machine; pos counts from its element. Everything that bbolt would follow is
// checked as bbolt would follow it: pages once each and below the high-water mark, bytes within their page, keys in
// order and within the bounds their parents set. A file that passes is safe to map.
//
// We write without a list of free pages, so there is none to check: bbolt takes what the trees do not use.

const (
	pageSize   = 4096
	pageHeader = 16
	elemSize   = 16 // of branches and leaves alike

	flagBranch = 1
	flagLeaf   = 2
	flagMeta   = 4
	leafBucket = 1 // flag of a leaf element

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaLen     = 64

	maxDepth = 32 // of a tree; a tree of a million records has 4
)

var order = binary.NativeEndian

// parse returns what a file has, or what is wrong with it.
func parse(b []byte) (state, error) {
	m, err := newestMeta(b)
	if err != nil {
		return state{}, err
	}
	r := reader{pages: b[:min(uint64(len(b)), m.high*pageSize)], used: make([]bool, m.high), all: make(image)}
	if err := r.tree(m.root, r.bucket); err != nil {
		return state{}, err
	}
	var s state
	return s, s.open(r.all)
}

// meta is what a meta page says.
type meta struct {
	root, high, txid uint64
	pageSize         uint32
	// usable means that we wrote it.
	usable bool
}

// newestMeta finds the page that bbolt would go by. It must be one of ours: another one would be followed elsewhere.
func newestMeta(b []byte) (best meta, err error) {
	err = errors.New("no valid meta page")
	for i := range uint64(2) {
		m, ok := parseMeta(b, i)
		if ok && m.pageSize != pageSize { // bbolt takes the size of either
			return m, fmt.Errorf("pages of %d bytes, want %d", m.pageSize, pageSize)
		}
		if ok && (err != nil || m.txid > best.txid) {
			best, err = m, nil
		}
	}
	switch {
	case err != nil:
		return best, err
	case !best.usable:
		return best, errors.New("meta page is not one of this store")
	case best.high > uint64(len(b))/pageSize:
		return best, fmt.Errorf("%d bytes, want %d pages", len(b), best.high)
	}
	return best, nil
}

// parseMeta reads a meta page; ok is what bbolt holds to be valid.
func parseMeta(b []byte, i uint64) (m meta, ok bool) {
	if uint64(len(b)) < (i+1)*pageSize {
		return m, false
	}
	head := b[i*pageSize:][:pageHeader]
	p := b[i*pageSize+pageHeader:][:metaLen]
	h := fnv.New64a()
	h.Write(p[:metaLen-8])
	if order.Uint32(p) != metaMagic || order.Uint32(p[4:]) != metaVersion || order.Uint64(p[56:]) != h.Sum64() {
		return m, false
	}
	m = meta{root: order.Uint64(p[16:]), high: order.Uint64(p[40:]), txid: order.Uint64(p[48:]), pageSize: order.Uint32(p[8:])}
	m.usable = order.Uint64(head) == i && order.Uint16(head[8:]) == flagMeta &&
		order.Uint64(p[32:]) == math.MaxUint64 && // no list of free pages
		m.txid%2 == i && m.high >= 2
	return m, true
}

// reader walks the trees of one file.
type reader struct {
	pages []byte
	used  []bool
	all   image
}

// entry takes one element of a leaf.
type entry func(flags uint32, key, value []byte) error

// tree calls f for the elements of the tree at root, in order.
func (r *reader) tree(root uint64, f entry) error {
	return r.walk(root, bounds{}, 0, f)
}

// bounds are what a page's keys lie between: at low or above, and below high. nil is no bound.
type bounds struct{ low, high []byte }

func (b bounds) have(key []byte) bool {
	return (b.low == nil || bytes.Compare(key, b.low) >= 0) && (b.high == nil || bytes.Compare(key, b.high) < 0)
}

func (r *reader) walk(id uint64, in bounds, depth int, f entry) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d: tree is too deep", id)
	}
	p, err := r.page(id)
	if err != nil {
		return err
	}
	if order.Uint16(p[8:]) != flagBranch {
		return leaf(p, in, f)
	}
	n := int(order.Uint16(p[10:]))
	if n == 0 || pageHeader+n*elemSize > len(p) {
		return fmt.Errorf("page %d: %d elements", id, n)
	}
	keys := make([][]byte, n)
	for i := range keys {
		e := p[pageHeader+i*elemSize:]
		pos, size := uint64(order.Uint32(e)), uint64(order.Uint32(e[4:]))
		if pos < elemSize || size == 0 || pos+size > uint64(len(e)) {
			return fmt.Errorf("page %d: element %d lies outside", id, i)
		}
		keys[i] = e[pos : pos+size]
		if !in.have(keys[i]) || i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
			return fmt.Errorf("page %d: keys are out of order", id)
		}
	}
	for i, low := range keys {
		child := bounds{low, in.high}
		if i+1 < n {
			child.high = keys[i+1]
		}
		if err := r.walk(order.Uint64(p[pageHeader+i*elemSize+8:]), child, depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

// page returns a page with those it flows over into.
func (r *reader) page(id uint64) ([]byte, error) {
	if id < 2 || id >= uint64(len(r.used)) {
		return nil, fmt.Errorf("page %d: there is none", id)
	}
	p := r.pages[id*pageSize:]
	n := uint64(order.Uint32(p[12:])) + 1
	if order.Uint64(p) != id || n > uint64(len(r.used))-id {
		return nil, fmt.Errorf("page %d: is not one", id)
	}
	for i := id; i < id+n; i++ {
		if r.used[i] {
			return nil, fmt.Errorf("page %d: used twice", i)
		}
		r.used[i] = true
	}
	return p[:n*pageSize], nil
}

// leaf calls f for the elements of a leaf page.
func leaf(p []byte, in bounds, f entry) error {
	n := int(order.Uint16(p[10:]))
	if order.Uint16(p[8:]) != flagLeaf || pageHeader+n*elemSize > len(p) {
		return fmt.Errorf("page %d: is no leaf of %d elements", order.Uint64(p), n)
	}
	var before []byte
	for i := range n {
		e := p[pageHeader+i*elemSize:]
		pos, ksize, vsize := uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		if pos < elemSize || ksize == 0 || pos+ksize+vsize > uint64(len(e)) {
			return fmt.Errorf("page %d: element %d lies outside", order.Uint64(p), i)
		}
		key, value := e[pos:pos+ksize], e[pos+ksize:pos+ksize+vsize]
		if !in.have(key) || i > 0 && bytes.Compare(before, key) >= 0 {
			return fmt.Errorf("page %d: keys are out of order", order.Uint64(p))
		}
		before = key
		if err := f(order.Uint32(e), key, value); err != nil {
			return err
		}
	}
	return nil
}

// bucket takes an element of the root: a bucket of ours, with records and no buckets in it.
func (r *reader) bucket(flags uint32, key, value []byte) error {
	if flags != leafBucket || len(value) < 16 {
		return fmt.Errorf("%q is no bucket", key)
	}
	name := string(key)
	r.all[name] = make(map[string][]byte)
	record := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return fmt.Errorf("%q in %q is no record", key, name)
		}
		r.all[name][string(key)] = bytes.Clone(value)
		return nil
	}
	if root := order.Uint64(value); root != 0 {
		return r.tree(root, record)
	}
	if len(value) < 16+pageHeader {
		return fmt.Errorf("bucket %q is cut short", name)
	}
	return leaf(value[16:], bounds{}, record)
}

package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
)

// The bucket and key of the header; callers use other buckets.
const (
	headerBucket = "meta"
	headerKey    = "header"
)

// header says what the other records are.
type header struct {
	// Schema is the version of what the records mean.
	Schema int `json:"schema"`
	// Generation counts transactions.
	Generation uint64 `json:"generation"`
	// Sum is over both and all records.
	Sum string `json:"sum"`
}

// image is all records: bucket, key, JSON.
type image map[string]map[string][]byte

func (im image) clone() image {
	c := make(image, len(im))
	for bucket, records := range im {
		c[bucket] = maps.Clone(records)
	}
	return c
}

// size is how many bytes the records have.
func (im image) size() (n int64) {
	for _, records := range im {
		for key, value := range records {
			n += int64(len(key) + len(value))
		}
	}
	return n
}

// set makes a record be value; nil removes it.
func (im image) set(bucket, key string, value []byte) {
	if value == nil {
		delete(im[bucket], key)
		return
	}
	if im[bucket] == nil {
		im[bucket] = make(map[string][]byte)
	}
	im[bucket][key] = value
}

// digest is the exclusive or of what the records hash to, so a change costs as much as it changes. It is against
// accidents: whoever may write the file needs no forgery.
type digest [sha256.Size]byte

// toggle adds a record, or takes it away when it is in.
func (d *digest) toggle(bucket, key string, value []byte) {
	if value == nil {
		return
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(bucket), []byte(key), value} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	for i, b := range h.Sum(nil) {
		d[i] ^= b
	}
}

func digestOf(im image) (d digest) {
	for bucket, records := range im {
		for key, value := range records {
			d.toggle(bucket, key, value)
		}
	}
	return d
}

// sum returns what belongs into the header.
func (d digest) sum(schema int, generation uint64) string {
	s := sha256.Sum256(fmt.Appendf(nil, "%d %d %x", schema, generation, d))
	return hex.EncodeToString(s[:16])
}

// state is an image with its header, as a file has them.
type state struct {
	header
	records image
	digest  digest
}

// open takes the header out of what a file has and checks it.
func (s *state) open(all image) error {
	raw, ok := all[headerBucket][headerKey]
	if !ok {
		return fmt.Errorf("no header")
	}
	if err := json.Unmarshal(raw, &s.header); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	delete(all, headerBucket)
	s.records, s.digest = all, digestOf(all)
	if s.Sum != s.digest.sum(s.Schema, s.Generation) {
		return fmt.Errorf("records do not add up to what the header says")
	}
	return nil
}

// advance makes the header that of the next transaction.
func (s *state) advance() {
	s.Generation++
	s.Sum = s.digest.sum(s.Schema, s.Generation)
}

package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Block is a part of the address space to choose Pools from, and how long they are. It reads the elements of
// "default-address-pools".
type Block struct {
	Base netip.Prefix `json:"base"`
	// Size is the length in bits of a Pool that is asked for without one.
	Size int `json:"size"`
}

// LocalBlocks returns Docker's Blocks for Networks of one host.
func LocalBlocks() []Block {
	return []Block{
		{netip.MustParsePrefix("172.17.0.0/16"), 16},
		{netip.MustParsePrefix("172.18.0.0/16"), 16},
		{netip.MustParsePrefix("172.19.0.0/16"), 16},
		{netip.MustParsePrefix("172.20.0.0/14"), 16},
		{netip.MustParsePrefix("172.24.0.0/14"), 16},
		{netip.MustParsePrefix("172.28.0.0/14"), 16},
		{netip.MustParsePrefix("192.168.0.0/16"), 20},
	}
}

// ULA returns the Block of unique local addresses (RFC 4193) that belongs to a host: another host's
// is another one, and a host's is always the same.
func ULA(hostID string) Block {
	sum := sha256.Sum256([]byte(hostID))
	a := [16]byte{0: 0xfd}
	copy(a[1:6], sum[3:8]) // the low 40 bits of the first 64, as Docker has it
	return Block{netip.PrefixFrom(netip.AddrFrom16(a), 48), 64}
}

// ParseBlock reads the value of --default-address-pool: base=10.10.0.0/16,size=24.
func ParseBlock(s string) (Block, error) {
	var b Block
	for field := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return Block{}, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		var err error
		switch strings.ToLower(key) {
		case "base":
			if b.Base, err = netip.ParsePrefix(value); err != nil {
				return Block{}, fmt.Errorf("invalid base prefix %q: %w", value, err)
			}
		case "size":
			if b.Size, err = strconv.Atoi(value); err != nil {
				return Block{}, fmt.Errorf("invalid size value: %q (must be integer): %w", value, err)
			}
		default:
			return Block{}, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	return b, b.Validate()
}

// Validate says what is wrong with a Block.
func (b Block) Validate() error {
	switch {
	case !b.Base.IsValid():
		return fmt.Errorf("invalid default address pool: base is missing; give it as base=10.10.0.0/16,size=24")
	case b.Base.Addr().Is4In6():
		return fmt.Errorf("invalid default address pool %s: write it as IPv4", b.Base)
	case b.Base != b.Base.Masked():
		return fmt.Errorf("invalid default address pool %s: it should be %s", b.Base, b.Base.Masked())
	case b.Size < b.Base.Bits() || b.Size > b.Base.Addr().BitLen():
		return fmt.Errorf("invalid default address pool %s: size %d is not between %d and %d",
			b.Base, b.Size, b.Base.Bits(), b.Base.Addr().BitLen())
	}
	return nil
}

// arrange sorts Blocks by their bases and leaves out those that lie in another one: the walk would come to
// the same prefixes a second time.
func arrange(blocks []Block) []Block {
	sorted := slices.Clone(blocks)
	slices.SortStableFunc(sorted, func(a, b Block) int {
		if c := a.Base.Addr().Compare(b.Base.Addr()); c != 0 {
			return c
		}
		return a.Base.Bits() - b.Base.Bits()
	})
	kept := sorted[:0]
	for _, b := range sorted {
		if n := len(kept); n == 0 || !kept[n-1].Base.Overlaps(b.Base) {
			kept = append(kept, b)
		}
	}
	return kept
}

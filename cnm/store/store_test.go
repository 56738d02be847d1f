package store

import (
	"fmt"
	"path/filepath"
	"testing"
)

func BenchmarkPut(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "networks.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := 0; b.Loop(); i++ {
		if err := s.Put(Networks, fmt.Sprintf("%064x", i), map[string]string{"name": fmt.Sprint(i), "x": fmt.Sprintf("%0500d", i)}); err != nil {
			b.Fatal(err)
		}
	}
}

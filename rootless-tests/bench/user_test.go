package main

import "testing"

func TestFreeIDs(t *testing.T) {
	for _, row := range []struct {
		text string
		next int
		has  bool
	}{
		{"", firstID, false},
		{"a:100000:65536\n", 165536, false},
		{"a:300000:65536\nb:100000:65536\n", 365536, false},
		{"a:100000:65536\nme:165536:65536\n", 231072, true},
		{"# me\nme:x:1\nme:1\n a:200000:10 \n", 200010, false},
		{"a:1:5", firstID, false},
	} {
		if next, has := freeIDs([]byte(row.text), "me"); next != row.next || has != row.has {
			t.Errorf("freeIDs(%q) = %d, %v; want %d, %v", row.text, next, has, row.next, row.has)
		}
	}
}

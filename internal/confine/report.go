package confine

import "time"

// Layer says whether one layer of the isolation is on.
type Layer struct {
	On bool `json:"on"`
	// Why says what prevented it, or what of it is missing.
	Why string `json:"why,omitempty"`
}

func layer(err error) Layer {
	if err != nil {
		return Layer{Why: err.Error()}
	}
	return Layer{On: true}
}

// Report says how far a process is isolated.
type Report struct {
	Namespaces   Layer `json:"namespaces"`
	Root         Layer `json:"root"`
	NotDumpable  Layer `json:"not_dumpable"`
	Capabilities Layer `json:"capabilities"`
	NoNewPrivs   Layer `json:"no_new_privs"`
	Landlock     Layer `json:"landlock"`
	Seccomp      Layer `json:"seccomp"`

	// LandlockABI is the kernel's version of Landlock, 0 without it.
	LandlockABI int `json:"landlock_abi"`
	// Closed are the inherited descriptors that nobody intended.
	Closed []int `json:"closed,omitempty"`
	// NoFile is the limit of open files.
	NoFile uint64 `json:"nofile"`
	// Took is how long Enter worked.
	Took time.Duration `json:"took_ns"`
}

// Weakened names the layers that are off, each with its reason; nil when all are on.
func (r Report) Weakened() []string {
	var off []string
	for _, l := range []struct {
		name string
		Layer
	}{
		{"namespaces", r.Namespaces}, {"root", r.Root}, {"not-dumpable", r.NotDumpable},
		{"capabilities", r.Capabilities}, {"no-new-privs", r.NoNewPrivs},
		{"landlock", r.Landlock}, {"seccomp", r.Seccomp},
	} {
		if !l.On {
			off = append(off, l.name+": "+l.Why)
		}
	}
	return off
}

// unconfined is the Report of a process that has no layer at all.
func unconfined(why string) Report {
	off := Layer{Why: why}
	return Report{
		Namespaces: off, Root: off, NotDumpable: off, Capabilities: off,
		NoNewPrivs: off, Landlock: off, Seccomp: off,
	}
}

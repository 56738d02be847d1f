// Package version says which usernet this is.
package version

import "runtime/debug"

// Number is the release this is, or will be.
const Number = "0.1.0"

// Revision is what the go command has noted of the commit this was built from, with a space in front; or empty.
func Revision() string {
	const short = 12
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(short, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = ", modified"
			}
		}
	}
	if rev == "" {
		return ""
	}
	return " " + rev + dirty
}

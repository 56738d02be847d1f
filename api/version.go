package api

import (
	"context"
	"strconv"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// Version is a version of the API by its minor number: all are 1.something.
type Version uint16

// The versions that are served: the newest is the one of the types, the oldest what current Docker clients
// fall back to when a server does not say.
const (
	MinVersion Version = 24
	MaxVersion Version = 56
)

// Versions of the API in which something that is shown here changed, see shape.go.
const (
	versionListBrief    Version = 28 // networks are listed without containers
	versionStopSignal   Version = 42 // stop takes a signal
	versionAliases      Version = 45 // aliases without the short id
	versionEnableIPv4   Version = 48
	versionTrimmed      Version = 52 // status of a network; container settings without those of the default bridge
	versionConnectedMAC Version = 54 // connect honours a MAC address
)

// String is the version as it is written in paths, without the v.
func (v Version) String() string { return "1." + strconv.Itoa(int(v)) }

// splitVersion takes /v1.XX off a path. A path without it is of the newest version. A number that is not
// served is refused with Docker's texts.
func splitVersion(path string) (Version, string, error) {
	rest, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return MaxVersion, path, nil
	}
	text, rest, ok := strings.Cut(rest, "/")
	major, minor, dot := strings.Cut(text, ".")
	if !ok || !dot || !digits(major) || !digits(minor) {
		return MaxVersion, path, nil // /volumes is no version
	}
	n, err := strconv.ParseUint(minor, 10, 16)
	switch {
	case major == "0" || major == "1" && err == nil && Version(n) < MinVersion:
		return 0, "", fault.New(fault.Invalid, "client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", text, MinVersion)
	case major != "1" || err != nil || Version(n) > MaxVersion:
		return 0, "", fault.New(fault.Invalid, "client version %s is too new. Maximum supported API version is %s", text, MaxVersion)
	}
	return Version(n), "/" + rest, nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

type versionKey struct{}

// versionOf is the version that the client of a request speaks.
func versionOf(ctx context.Context) Version {
	if v, ok := ctx.Value(versionKey{}).(Version); ok {
		return v
	}
	return MaxVersion
}

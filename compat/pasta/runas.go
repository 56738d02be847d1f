package pasta

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// checkRunAs refuses a --runas that names nobody. It changes nothing else: what the original runs as somebody else for is
// done by the datapath, which has no rights on the host whoever starts it (docs/SECURITY.md), and what is left needs the
// rights of its caller, for the namespace and for ports below 1024.
func checkRunAs(s string) error {
	if s == "" {
		return nil
	}
	who, group, hasGroup := strings.Cut(s, ":")
	if _, err := strconv.ParseUint(who, 0, 32); err != nil {
		if u, err := user.Lookup(who); err != nil || u.Uid == "0" {
			return fmt.Errorf("Invalid --runas option: %s", s)
		}
	}
	if !hasGroup {
		return nil
	}
	if _, err := strconv.ParseUint(group, 0, 32); err != nil {
		if _, err := user.LookupGroup(group); err != nil {
			return fmt.Errorf("Invalid --runas option: %s", s)
		}
	}
	return nil
}

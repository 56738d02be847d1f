package shim

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// UserNamespaceHint says what to change on a host that forbids user namespaces to ordinary users, or ""
// when nothing known is in the way.
func UserNamespaceHint() string {
	for _, h := range []struct{ file, forbids, fix string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "as root run \"sysctl -w kernel.unprivileged_userns_clone=1\""},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces: as root run \"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\", or give usernet a profile with the rule \"userns,\""},
		{"/proc/sys/user/max_user_namespaces", "0", "as root run \"sysctl -w user.max_user_namespaces=15000\""},
		{"/proc/sys/user/max_mnt_namespaces", "0", "as root run \"sysctl -w user.max_mnt_namespaces=15000\""},
		{"/proc/sys/user/max_net_namespaces", "0", "as root run \"sysctl -w user.max_net_namespaces=15000\""},
	} {
		b, err := os.ReadFile(h.file)
		if err == nil && strings.TrimSpace(string(b)) == h.forbids {
			return h.fix
		}
	}
	return ""
}

// withUserNamespaceHint adds to errors of permission and of limits what would lift them.
func withUserNamespaceHint(err error) error {
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EUSERS) {
		return err
	}
	if h := UserNamespaceHint(); h != "" {
		return fmt.Errorf("%w; %s", err, h)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EUSERS) {
		return fmt.Errorf("%w; too many namespaces: raise user.max_user_namespaces, user.max_mnt_namespaces and user.max_net_namespaces", err)
	}
	return err
}

package programs

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Theory of operation
//
// Some programs are wanted in a version that is not the machine's: podman 5 and the pasta of its time stand in
// Debian 13. Installing them would exchange the machine's own C library, so they are unpacked beside it, as the root
// of a file system for whoever enters it (rig.Rig.Debian13).
//
// apt does the work that is hard, to find the packages that these need and to check their signatures: it is told to
// keep its state elsewhere, to believe that nothing is installed, and to download only. dpkg-deb unpacks; no script of
// a package runs, and none of these programs needs one. The mirror is the one that the machine's own apt uses.
//
// The root is made under another name and renamed when it is whole. It stays, for a next run. A change of the list below
// makes another one beside it, as tests that run may be using the old one.

// Debian13 is where that root is.
var Debian13 = fmt.Sprintf("%s/%s-%08x", cache, codename, crc32.ChecksumIEEE([]byte(inRoot)))

const (
	cache    = "/var/cache/usernet-tests"
	codename = "trixie"
	// keyring has the keys of Debian's releases, in package debian-archive-keyring.
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// inRoot are the packages in it; apt adds what they need.
const inRoot = "podman buildah crun conmon netavark aardvark-dns nftables passt slirp4netns rootlesskit uidmap " +
	"base-files busybox-static coreutils dash iproute2 iputils-ping mount procps util-linux"

// haveRoot reports whether the root is there.
func haveRoot() bool {
	_, err := os.Stat(Debian13)
	return err == nil
}

// provideRoot makes the root.
func provideRoot(w io.Writer) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("make %s: only root can unpack packages so that newuidmap works; run rootless-tests/programs/provide as root", Debian13)
	}
	// Another run may be at it.
	lock, err := lockCache()
	if err != nil {
		return err
	}
	defer lock.Close()
	if haveRoot() {
		return nil
	}
	fmt.Fprintln(w, "unpacking packages of Debian 13 in", Debian13)
	dir, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a := elsewhere{dir}
	for _, step := range []func() error{a.prepare, a.download, a.unpack} {
		if err := step(); err != nil {
			return fmt.Errorf("make %s, which is podman 5 and its programs of Debian 13: %w", Debian13, err)
		}
	}
	return os.Rename(a.root(), Debian13)
}

// lockCache waits until no other process installs or unpacks. Closing the file lets the next one.
func lockCache() (*os.File, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.Create(cache + "/lock")
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return lock, nil
}

// elsewhere is an apt of its own below dir.
type elsewhere struct{ dir string }

func (a elsewhere) root() string { return filepath.Join(a.dir, "root") }
func (a elsewhere) debs() string { return filepath.Join(a.dir, "cache/archives") }

// prepare writes apt's configuration.
func (a elsewhere) prepare() error {
	// apt's own user, which fetches, has to read there.
	if err := os.Chmod(a.dir, 0o755); err != nil {
		return err
	}
	mirror, err := ownMirror()
	if err != nil {
		return err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"state/status": "",
		"sources.list": fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, codename),
		"apt.conf":     strings.ReplaceAll(aptConf, "DIR", a.dir),
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// aptConf is the configuration of an apt below DIR.
const aptConf = `Dir::State "DIR/state";
Dir::State::status "DIR/state/status";
Dir::Cache "DIR/cache";
Dir::Etc::sourcelist "DIR/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
`

// ownMirror is where the machine's apt has Debian from.
func ownMirror() (string, error) {
	find := func() (string, error) {
		out, err := exec.Command("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
		if err != nil {
			return "", fmt.Errorf("ask apt-get for its sources: %w", err)
		}
		for line := range strings.Lines(string(out)) {
			// Security updates have a label of their own.
			if uri, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian Debian main "); ok {
				return uri, nil
			}
		}
		return "", nil
	}
	mirror, err := find()
	if mirror != "" || err != nil {
		return mirror, err
	}
	// It knows a source's origin when it has its lists.
	if out, err := exec.Command("apt-get", "update", "-q").CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get update: %w; is the mirror reached?\n%s", err, out)
	}
	if mirror, err = find(); err == nil && mirror == "" {
		err = errors.New("apt's sources name no mirror of Debian")
	}
	return mirror, err
}

// download fetches the packages and what they need.
func (a elsewhere) download() error {
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--download-only"}, strings.Fields(inRoot)...)} {
		c := exec.Command("apt-get", args...)
		c.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w; is the mirror reached, and has it %s?\n%s", args[0], err, codename, out)
		}
	}
	return nil
}

// unpack makes the root of them.
func (a elsewhere) unpack() error {
	// These links are there before what is behind them, or a package could make a directory of that name.
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(a.root(), "usr", name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, filepath.Join(a.root(), name)); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(a.debs() + "/*.deb")
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("unpack packages: found %d in %s", len(debs), a.debs())
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, a.root()).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", filepath.Base(deb), err, out)
		}
	}
	return nil
}

package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/usernet/usernet/cnm"
)

// A sandbox's networks, as --network names them: one word, a mode or the name of a network, or
// comma-separated fields, name=backend,alias=db,ip=172.18.0.9. The texts of what is refused are those of docker run.

// longNetwork tells the form with fields from a name, as Docker does.
var longNetwork = regexp.MustCompile(`\w+=\w+(,\w+=\w+)*`)

// parseNetwork reads one --network.
func parseNetwork(s string) (cnm.EndpointConfig, error) {
	if !longNetwork.MatchString(s) {
		if s == "" {
			return cnm.EndpointConfig{}, errors.New("network name/id is not specified")
		}
		return cnm.EndpointConfig{Network: s}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return cnm.EndpointConfig{}, fmt.Errorf("read fields: %w", err)
	}
	var e cnm.EndpointConfig
	for _, f := range fields {
		if err := addNetworkField(&e, f); err != nil {
			return cnm.EndpointConfig{}, err
		}
	}
	if e.Network == "" {
		return cnm.EndpointConfig{}, errors.New("network name/id is not specified")
	}
	return e, nil
}

func addNetworkField(e *cnm.EndpointConfig, field string) (err error) {
	key, v, ok := strings.Cut(field, "=")
	key, v = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(v)
	if !ok || key == "" {
		return fmt.Errorf("invalid field %s", field)
	}
	switch key {
	case "name":
		e.Network = v
	case "alias":
		e.Aliases = append(e.Aliases, v)
	case "ip":
		e.IPv4, err = parseAddr4(v)
	case "ip6":
		e.IPv6, err = parseAddr6(v)
	case "mac-address":
		e.MAC, err = parseMAC(v)
	case "link-local-ip":
		var a netip.Addr
		if a, err = netip.ParseAddr(v); err != nil {
			return fmt.Errorf("%q is not an IP address", v)
		}
		e.LinkLocal = append(e.LinkLocal, a)
	case "driver-opt":
		if _, err = parseDriverOpt(v); err != nil {
			return err
		}
		if e.DriverOpts == nil {
			e.DriverOpts = map[string]string{}
		}
		k, opt, _ := strings.Cut(v, "=")
		e.DriverOpts[strings.TrimSpace(k)] = strings.TrimSpace(opt)
	case "gw-priority":
		if e.GwPriority, err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("invalid gw-priority: %w", err)
		}
	default:
		return errors.New("invalid field key " + key)
	}
	return err
}

// mode is what kind of network a sandbox has.
type mode uint8

const (
	modePrivate   mode = iota // a Network of usernet's own, for this sandbox alone
	modeNone                  // lo only
	modeHost                  // the host's
	modeContainer             // another sandbox's
	modeNamed                 // Networks of the daemon
)

// Words of --network that are no names of networks.
const (
	wordPrivate   = "private"
	wordNone      = "none"
	wordHost      = "host"
	wordDefault   = "default"
	wordBridge    = "bridge"
	wordContainer = "container"
)

// networkMode is what a word of --network means, and for modeContainer the other sandbox.
func networkMode(word string) (m mode, donor string, err error) {
	switch word {
	case wordPrivate:
		return modePrivate, "", nil
	case wordNone:
		return modeNone, "", nil
	case wordHost:
		return modeHost, "", nil
	}
	kind, donor, ok := strings.Cut(word, ":")
	if kind != wordContainer {
		return modeNamed, "", nil
	}
	if !ok || donor == "" {
		return 0, "", errors.New("invalid network mode: invalid container format container:<name|id>")
	}
	return modeContainer, donor, nil
}

// userDefined reports whether word names a network that somebody has made, in Docker's sense.
func userDefined(word string) bool {
	m, _, err := networkMode(word)
	return err == nil && m == modeNamed && word != wordDefault && word != wordBridge
}

// checkNetworks settles the modes of several --network.
func checkNetworks(es []cnm.EndpointConfig) (m mode, donor string, err error) {
	seen := map[string]bool{}
	users := 0
	for i, e := range es {
		if userDefined(e.Network) {
			users++
		} else if len(e.Aliases) > 0 {
			return 0, "", errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		this, d, err := networkMode(e.Network)
		if err != nil {
			return 0, "", err
		}
		if i == 0 {
			m, donor = this, d
		}
		if seen[e.Network] {
			return 0, "", fmt.Errorf("network %q is specified multiple times", e.Network)
		}
		seen[e.Network] = true
	}
	if users > 0 && users < len(es) {
		return 0, "", errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	if users == 0 && len(es) > 1 {
		return 0, "", errors.New("conflicting options: cannot attach several non-user-defined network-modes")
	}
	return m, donor, nil
}

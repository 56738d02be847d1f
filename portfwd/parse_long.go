package portfwd

import (
	"errors"
	"fmt"
	"strings"
)

// parseLong reads the comma-separated form that `docker service create --publish` has, with
// Docker's keys and texts, and compose's host_ip.
func parseLong(value string) ([]Spec, error) {
	s := Spec{Proto: TCP}
	seen := make(map[string]bool)
	for field := range strings.SplitSeq(value, ",") {
		key, val, ok := strings.Cut(field, "=")
		if !ok || key == "" {
			return nil, errors.New("invalid field: " + field)
		}
		if seen[key] {
			return nil, fmt.Errorf("field '%s' is given twice", key)
		}
		seen[key] = true
		if err := s.setField(key, val); err != nil {
			return nil, err
		}
	}
	if s.Port == 0 {
		return nil, errors.New("missing mandatory field 'target'")
	}
	return []Spec{s}, nil
}

func (s *Spec) setField(key, val string) (err error) {
	switch key {
	case "target":
		if s.Port, err = parsePort(val); err != nil || s.Port == 0 {
			return fmt.Errorf("invalid target port (%s): value must be an integer from 1 to 65535", val)
		}
	case "published":
		if s.HostPort, err = parsePort(val); err != nil {
			return fmt.Errorf("invalid published port (%s): value must be an integer from 0 to 65535", val)
		}
	case "protocol":
		switch val {
		case "tcp", "udp", "sctp":
			s.Proto, err = parseProto(val)
			return err
		}
		return fmt.Errorf("invalid protocol value '%s'", val)
	case "host_ip":
		s.HostIP, err = parseHostIP(val)
		return err
	case "mode":
		switch val {
		case "host":
		case "ingress":
			return errors.New("publish mode 'ingress' needs a service; use mode=host")
		default:
			return fmt.Errorf("invalid publish mode value (%s): must be either 'ingress' or 'host'", val)
		}
	default:
		return errors.New("invalid field key: " + key)
	}
	return nil
}

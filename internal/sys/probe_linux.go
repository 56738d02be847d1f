package sys

import (
	"golang.org/x/sys/unix"
)

// ProbeUDPSegment reports, by an UnsupportedError, whether Datagram.Segment works (UDP GSO).
func ProbeUDPSegment() error {
	return probeUDP(unix.UDP_SEGMENT, "UDP GSO", "Linux 4.18")
}

// ProbeUDPGRO reports, by an UnsupportedError, whether OptUDPGRO works.
func ProbeUDPGRO() error {
	return probeUDP(unix.UDP_GRO, "UDP GRO", "Linux 5.0")
}

// probeUDP asks a socket, since versions say little: distributions carry features back.
func probeUDP(option int, feature, need string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, option, 0); err != nil {
		return &UnsupportedError{Feature: feature, Need: need, Err: err}
	}
	return nil
}

//go:build race

package tap_test

func init() { raceDetector = true }

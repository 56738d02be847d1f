//go:build race

package sys

func init() { raceDetector = true }

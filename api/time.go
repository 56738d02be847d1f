package api

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// layouts are the forms of a point in time, without a zone in the server's.
var layouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04",
	"2006-01-02Z07:00", "2006-01-02",
}

// parseTime reads what Docker's clients say of time: seconds since 1970 with a fraction, a date and time
// of RFC 3339 or its beginning, or a duration, which lies that far before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		return now.Add(-d), nil
	}
	for _, l := range layouts {
		if t, err := time.ParseInLocation(l, s, now.Location()); err == nil {
			return t, nil
		}
	}
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) > 9 || frac != "" && !digits(frac) {
		return time.Time{}, errors.New("want seconds since 1970, a date of RFC 3339, or a duration such as 10m")
	}
	nano, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64) // nine digits
	return time.Unix(n, nano), nil
}

package pasta

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A port in use is asked for again, for a while.
func TestUntilFree(t *testing.T) {
	busy := fmt.Errorf("publish: %w", syscall.EADDRINUSE)
	other := errors.New("other")
	for _, tt := range []struct {
		name     string
		freeAt   time.Duration // the pasta before has ended
		then     error
		want     error
		maxTries int
	}{
		{"free", 0, nil, nil, 1},
		{"free soon", time.Second, nil, nil, 25},
		{"another error", 0, other, other, 1},
		{"another error later", time.Second, other, other, 25},
		{"never", time.Hour, nil, syscall.EADDRINUSE, 110},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				err := untilFree(func() error {
					tries++
					if time.Since(began) < tt.freeAt {
						return busy
					}
					return tt.then
				})
				if !errors.Is(err, tt.want) || tries > tt.maxTries {
					t.Errorf("%v after %d tries, want %v after %d at most", err, tries, tt.want, tt.maxTries)
				}
			})
		})
	}
}

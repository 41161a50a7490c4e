// Package watched follows files of secrets that a node reads again while it
// runs. A [Stamp] shows whether files may have changed since they were read.
// [Files] records whether they are valid, and decides when to warn of it.
package watched

import (
	"context"
	"sync/atomic"
	"time"
)

// RepeatAfter is the interval between warnings about files that stay invalid.
const RepeatAfter = 5 * time.Minute

// Files records whether the newest content of some files is in use. While the
// files are missing or invalid, the earlier content stays in use, and a restart
// would fail. The zero value stands for valid files. One goroutine at a time may
// call Record; Bad is safe for concurrent use.
type Files struct {
	bad    atomic.Bool
	warned time.Time
}

// Record records the result of a read of the files. It reports whether to warn of
// err now, which is at the first failure and every [RepeatAfter] while it lasts.
// It also reports whether invalid files have become valid again.
func (f *Files) Record(err error, now time.Time) (warn, mended bool) {
	wasBad := f.bad.Swap(err != nil)
	if err == nil {
		return false, wasBad
	}
	if warn = !wasBad || now.Sub(f.warned) >= RepeatAfter; warn {
		f.warned = now
	}
	return warn, false
}

// Bad reports whether the files are missing or invalid, so that earlier content is
// in use.
func (f *Files) Bad() bool { return f.bad.Load() }

// Watch calls look at every interval until ctx ends. It returns nil.
func Watch(ctx context.Context, every time.Duration, look func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			look()
		}
	}
}

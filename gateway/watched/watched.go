// Package watched follows files of secrets that a node reads again while it
// runs.
package watched

import (
	"sync/atomic"
	"time"
)

// RepeatAfter is how often a warning of files that are still not good is
// repeated.
const RepeatAfter = 5 * time.Minute

// Files is whether the newest content of some files is in use. While it is
// missing or not good, what was read before stays in use, and a restart would
// fail. The zero value is for files that are good. One goroutine at a time
// calls Read; Bad is safe for concurrent use.
type Files struct {
	bad  atomic.Bool
	told time.Time // of the last warning
}

// Read takes the outcome of reading the files. It reports whether to warn of
// err now, at the first failure and every [RepeatAfter] while it lasts, and
// whether files that were bad are good again.
func (f *Files) Read(err error, now time.Time) (warn, mended bool) {
	was := f.bad.Swap(err != nil)
	if err == nil {
		return false, was
	}
	if warn = !was || now.Sub(f.told) >= RepeatAfter; warn {
		f.told = now
	}
	return warn, false
}

// Bad reports whether the newest content is not in use.
func (f *Files) Bad() bool { return f.bad.Load() }

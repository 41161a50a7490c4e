package driver

import (
	"sync"
	"time"
)

// loginMost bounds the limit of a login, as a multiple of the least limit.
const loginMost = 8

// loginLimit bounds the time for a login at one host. A login that exceeds the
// limit has wasted the server's work, so the limit doubles. Each successful login
// halves it.
type loginLimit struct {
	least time.Duration

	mu  sync.Mutex
	now time.Duration
}

func (l *loginLimit) get() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.now, l.least)
}

// ranOut reports that a login took longer than its limit, used. Concurrent
// logins that ran out count once.
func (l *loginLimit) ranOut(used time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = max(l.now, min(2*used, loginMost*l.least))
}

func (l *loginLimit) succeeded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now /= 2
}

package ganglion

import (
	"fmt"
	"time"
)

// armWatchdog replaces the watchdog, which waits for welcome first, and then for
// the next ping or its answer.
func (c *Client) armWatchdog(d time.Duration, f func()) {
	c.watchdog.stop()
	c.watchdog = c.after(d, f)
}

// watchSilence pings the gateway after one and a half heartbeats of silence.
func (c *Client) watchSilence() {
	allowed := c.heartbeatEvery * 3 / 2
	if left := min(allowed, allowed-time.Since(c.lastSeen)); left > 0 {
		c.armWatchdog(left, c.watchSilence)
	} else {
		c.probe()
	}
}

// probe pings the gateway, and drops the session if nothing arrives within
// pongTimeout.
func (c *Client) probe() {
	if c.probing {
		return
	}
	c.probing = true
	c.enqueue(encode(smallFrame{Op: "ping", ID: c.id()}))
	c.armWatchdog(pongTimeout, func() {
		if c.probing {
			c.dropSession(closeAbnormal, fmt.Errorf("the gateway did not answer a ping within %v", pongTimeout))
		} else {
			c.watchSilence()
		}
	})
}

package ganglion

import (
	"time"
)

// scheduleRenewal renews the token after wait, if that is at least a second before
// it expires. Otherwise the client lets the gateway close the session, and begins
// the next one with a new token.
func (c *Client) scheduleRenewal(wait time.Duration) {
	if c.options.Token == nil || c.session.renewing || time.Until(c.tokenExpires) < wait+time.Second {
		return
	}
	c.renewalTimer.stop()
	c.renewalTimer = nil
	if wait > 0 {
		c.renewalTimer = c.after(wait, c.renewToken)
	} else {
		c.renewToken()
	}
}

// renewToken fetches a token and sends it to the gateway.
func (c *Client) renewToken() {
	s := c.session
	if s == nil {
		return
	}
	s.renewing = true
	c.tokenFetched = time.Now()
	c.tasks.Go(func() {
		token, err := c.options.Token(s.ctx)
		c.mu.Lock()
		defer c.unlock()
		s.renewing = false
		switch {
		case c.session != s || s.abandoned || c.status == Closed:
		case err != nil:
			c.renewalFailed(wrap(CodeUnauthenticated, RetryLater, "Options.Token failed", err))
		case token == c.token:
			// A cache may return the same token. Ask again after half of the
			// remaining time.
			c.scheduleRenewal(time.Until(c.tokenExpires) / 2)
		default:
			c.token, c.haveToken, c.authID = token, true, c.id()
			c.enqueue(encode(smallFrame{Op: "auth", ID: c.authID, Token: token}))
		}
	})
}

// renewalFailed reports a token that could not be fetched or was refused, and
// schedules the next renewal.
func (c *Client) renewalFailed(err *Error) {
	err.Message, err.Retry = "can't renew the token: "+err.Message, RetryLater
	c.report(err)
	c.scheduleRenewal(min(c.backoff(c.renewalFailures, 10*time.Second, maxBackoff), time.Until(c.tokenExpires)/2))
	c.renewalFailures++
}

package ganglion

import (
	"errors"
	"time"
)

// The close codes that the client distinguishes. 1006 is a connection that ended
// without a close frame.
const (
	closeAbnormal        = 1006
	closeTooLarge        = 1009
	closeUnauthenticated = 4001
	closeForbidden       = 4004
	closeLost            = 4200
	codeMoved            = 0 // the client's own: it moves to another gateway
)

// scheduleMove moves to another gateway, which may know a name or show an event
// that this one can't, after a pause that grows with each move. unknown means that
// the gateway does not know a name. scheduleMove then returns false if enough
// other gateways have been asked.
func (c *Client) scheduleMove(unknown bool) bool {
	if c.moveTimer != nil {
		return true
	}
	if time.Since(c.welcomedAt) >= moveResetAfter {
		c.moveCount, c.unknownMoves = 0, 0
	}
	if unknown {
		if c.unknownMoves >= max(minGatewaysAsked, len(c.options.URLs)-1) {
			return false
		}
		c.unknownMoves++
	}
	c.moveTimer = c.after(c.backoff(c.moveCount, 500*time.Millisecond, maxAway), func() {
		c.dropSession(codeMoved, errors.New("the client moves to another gateway"))
	})
	c.moveCount++
	return true
}

// handleDisconnect cleans up after a connection. It returns how long to wait
// before the next one, or the error that closes the client.
func (c *Client) handleDisconnect(code int, err error) (wait time.Duration, fatal *Error) {
	welcomed := c.welcomed
	for _, t := range []*timer{c.watchdog, c.renewalTimer, c.moveTimer} {
		t.stop()
	}
	c.renewalTimer, c.moveTimer, c.authID, c.renewalFailures = nil, nil, "", 0
	c.welcomed, c.probing = false, false
	c.connErr = err
	if welcomed && time.Since(c.welcomedAt) >= backoffResetAfter {
		c.attempts = 0
	}
	c.urlIndex++
	c.detachAll()
	c.requeueInFlight()

	away := c.reconnectIn
	c.reconnectIn = nil
	first := c.attempts == 0
	band := code / 100
	switch {
	case code == closeUnauthenticated && c.options.Token != nil && (welcomed || !c.tokenIsFresh && c.staleRefusals < maxStaleRefusals):
	case band == 40 || code == closeTooLarge:
		return 0, c.fatalError(code, err)
	}
	c.reportRefusal(band == 41, err)
	c.bareHello = c.refusal != nil
	switch {
	case code == closeUnauthenticated:
		if !welcomed {
			c.staleRefusals++
		}
		c.haveToken, c.token, c.refusedToken = false, "", c.token // expired: a new token may be accepted
		if first {
			c.attempts++
			return 0, nil
		}
	case away != nil:
		c.waitIsFixed = true
		c.attempts++
		return *away, nil
	case band == 41:
		c.attempts = max(c.attempts, 4)
		c.waitIsFixed = true
	case code == codeMoved, band == 42 && first:
		c.attempts++
		return 0, nil
	}
	wait = c.backoff(c.attempts, 500*time.Millisecond, maxBackoff)
	c.attempts++
	return wait, nil
}

// reportRefusal reports why a gateway did not admit the client, if it answered
// hello with an error or closed with 41xx.
func (c *Client) reportRefusal(tooMuch bool, err error) {
	var e *Error
	switch {
	case c.refusal != nil:
		e = c.refusal.failure()
	case tooMuch:
		e = &Error{Code: CodeUnavailable, Message: err.Error()}
	default:
		return
	}
	e.Retry = RetryLater
	c.report(e)
}

// fatalError returns the error that closes the client.
func (c *Client) fatalError(code int, err error) *Error {
	e := &Error{Code: CodeProtocol, Message: err.Error(), Retry: RetryNo}
	if c.refusal != nil {
		e = c.refusal.failure()
		e.Retry = RetryNo
	}
	switch code {
	case closeUnauthenticated:
		e.Code = CodeUnauthenticated
	case closeForbidden:
		e.Code = CodeForbidden
	case closeTooLarge:
		e.Code = CodeTooLarge
	default:
		e.Code = CodeProtocol
	}
	return e
}

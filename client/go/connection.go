package ganglion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

const (
	// backoffResetAfter is the age of a session that resets the backoff.
	backoffResetAfter = 5 * time.Second
	// welcomeTimeout bounds an attempt: fetching the token, connecting and
	// waiting for welcome.
	welcomeTimeout = 10 * time.Second
	// pongTimeout bounds the wait for the answer to a ping.
	pongTimeout = 5 * time.Second
	// closeTimeout bounds the close handshake. After a write fails, it bounds the
	// wait for a close frame with the reason.
	closeTimeout = time.Second
	// maxAway bounds the pause in a gateway's goodbye, and the pauses before
	// moves to another gateway.
	maxAway = 2 * time.Minute
	// moveResetAfter is the age of a session that resets the pauses before moves.
	moveResetAfter = 2 * maxAway
	// minGatewaysAsked is the number of other gateways that the client asks for an
	// unknown name, unless it has more URLs.
	minGatewaysAsked = 3
	// maxStaleRefusals bounds consecutive refusals of tokens that were accepted
	// before.
	maxStaleRefusals = 5
	// maxMessageBytes bounds a message of several frames, unless the gateway
	// announces a lower limit in welcome.
	maxMessageBytes = 64 << 10
	// maxReadBytes bounds a message from a gateway.
	maxReadBytes = 64 << 20
)

// connection keeps one session with one of the gateways.
type connection struct {
	session        *session
	welcomed       bool
	limits         limits
	heartbeatEvery time.Duration // between heartbeats
	connErr        error

	urlIndex    int // counts attempts; each uses the next URL
	attempts    int // since a session that lasted backoffResetAfter
	watchdog    *timer
	waitIsFixed bool           // a server set the wait, so Wake does not shorten it
	reconnectIn *time.Duration // from goodbye
	lastSeen    time.Time
	welcomedAt  time.Time // when welcome arrived
	probing     bool

	token         string
	haveToken     bool
	tokenIsFresh  bool          // the token was not used before
	refusedToken  string        // the previous token, which a gateway refused
	staleRefusals int           // consecutive refusals of tokens that were accepted before
	refusal       *gatewayFrame // the error frame that refused hello
	bareHello     bool          // the last hello was refused, perhaps for its subscriptions: they follow the next welcome

	tokenFetched    time.Time // when the token function was last called
	tokenExpires    time.Time // zero until the gateway sends expiring
	renewalTimer    *timer    // until the next renewal
	renewalFailures int       // consecutive
	authID          string    // id of the pending renewal

	moveTimer    *timer // until the move to another gateway
	moveCount    int    // since a session that lasted moveResetAfter
	unknownMoves int    // moves because of an unknown name
}

// connectLoop makes one connection after another until the client is closed.
func (c *Client) connectLoop() {
	defer c.cancel()
	for {
		code, err := c.connectOnce()
		c.mu.Lock()
		if c.ctx.Err() != nil {
			c.closeWith(wrap(CodeClosed, RetryNo, "the client's context ended", context.Cause(c.ctx)))
			c.unlock()
			return
		}
		wait, fatal := c.handleDisconnect(code, err)
		if fatal != nil {
			c.closeWith(fatal)
			c.unlock()
			return
		}
		select {
		case <-c.wakeup: // discard a wakeup of an earlier wait
		default:
		}
		if wait > 0 {
			c.setStatus(Offline)
		}
		c.unlock()
		if wait == 0 {
			continue
		}
		next := time.NewTimer(wait)
		select {
		case <-next.C:
		case <-c.wakeup:
		case <-c.ctx.Done():
		}
		next.Stop()
	}
}

var errNoWelcome = fmt.Errorf("the gateway did not send welcome within %v", welcomeTimeout)

// connectOnce makes one connection, waits for its end, and returns the close code
// and the reason.
func (c *Client) connectOnce() (code int, err error) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.waitIsFixed, c.refusal = false, nil
	c.setStatus(Connecting)
	c.armWatchdog(welcomeTimeout, func() {
		cancel(errNoWelcome)
		c.dropSession(closeAbnormal, errNoWelcome)
	})
	fetch := c.options.Token != nil && !c.haveToken
	if fetch {
		c.tokenFetched = time.Now()
	}
	url := c.options.URLs[c.urlIndex%len(c.options.URLs)]
	c.unlock()

	if fetch {
		token, err := c.options.Token(ctx)
		c.mu.Lock()
		if err != nil && c.ctx.Err() == nil {
			c.report(wrap(CodeUnavailable, RetryLater, "can't get a token", err))
		}
		if err == nil {
			c.token, c.haveToken, c.tokenIsFresh = token, true, token != c.refusedToken || c.refusedToken == ""
		}
		c.unlock()
		if err != nil {
			return closeAbnormal, fmt.Errorf("can't get a token: %w", err)
		}
	}

	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{subprotocol}, HTTPClient: c.options.HTTPClient})
	switch {
	case err != nil && ctx.Err() != nil:
		return closeAbnormal, context.Cause(ctx)
	case err != nil && resp != nil:
		return closeAbnormal, fmt.Errorf("%s refused the connection: %s: %s", url, resp.Status, refusalText(resp))
	case err != nil:
		return closeAbnormal, err
	}
	conn.SetReadLimit(maxReadBytes)
	s := &session{conn: conn, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(c.ctx)) // outlives c.ctx for the close handshake
	return c.serve(s)
}

// refusalText returns the server's explanation of a refused handshake.
func refusalText(resp *http.Response) string {
	var said struct{ Message, Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err == nil && cmp.Or(said.Detail, said.Message) != "" {
		return cmp.Or(said.Detail, said.Message)
	}
	return "is it a gateway of Ganglion?"
}

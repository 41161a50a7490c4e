package ganglion

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	// settledAfter is how long a session lasts that begins the backoff anew.
	settledAfter = 5 * time.Second
	// connectWithin is how long a connection may take until welcome, token and
	// all, pongWithin how long a silent gateway may take to answer a ping.
	connectWithin = 10 * time.Second
	pongWithin    = 5 * time.Second
	// closeWithin bounds the parting, and how long a reader may find out why a
	// connection can't be written to.
	closeWithin = time.Second
	// longestAway is how long a server may keep a client away at most.
	longestAway = 2 * time.Minute
	// calmAfter is how long a session lasts that begins the pauses before moves
	// again.
	calmAfter = 2 * longestAway
	// leastAsked is how many other gateways are asked for a name that one does
	// not know, if there are not more URLs.
	leastAsked = 3
	// mostStale is how many times in a row a token that was good before is
	// tried although gateways refuse it.
	mostStale = 5
	// messageBytes is where a message of several frames ends, unless the
	// gateway takes less; it is under every limit of a gateway.
	messageBytes = 64 << 10
	// readBytes bounds a message of a gateway.
	readBytes = 64 << 20
)

// The statuses of a close by which the client goes on; 1006 is a connection
// that ended without a word.
const (
	lostAbnormally  = 1006
	closeTooLarge   = 1009
	closeNoToken    = 4001
	closeForbidden  = 4004
	closeAnotherWay = 4200
	moved           = 0 // by the client itself
)

// connection keeps one session with one of the gateways.
type connection struct {
	session  *session
	welcomed bool
	limits   limits
	heart    time.Duration // between heartbeats
	connErr  error

	url      int // counts attempts, which take the next URL each
	attempts int // without a session that lasted
	watchdog *timer
	told     bool           // a server said how long to stay away: nothing shortens it
	away     *time.Duration // for how long, from goodbye
	lastSeen time.Time
	since    time.Time // of welcome
	probing  bool

	token     string
	haveToken bool
	fresh     bool    // the token was not used before
	spent     string  // the token before it, which a gateway refused
	stale     int     // refusals in a row of tokens that were used before
	refusal   *answer // why hello was refused
	bare      bool    // hello has no subscriptions, perhaps the one before had too many; they follow welcome

	fetched  time.Time // when the token function was last called
	expires  time.Time // when the session's token does, once the gateway said so
	renewal  *timer    // of the next renewal
	failures int       // renewals in a row that failed
	auth     string    // the id of the renewal that is not answered

	moving  *timer // of a move to another gateway
	moves   int    // since the last calm session
	unknown int    // of those, moves for a name that the gateway does not know
}

// session is one WebSocket connection.
type session struct {
	conn   *websocket.Conn
	ctx    context.Context // ends it at once
	cancel context.CancelFunc
	wake   chan struct{} // there is something to write; has room for one

	// Guarded by the client's lock.
	out      [][]byte
	renewing bool  // a token is being fetched for it
	over     bool  // the client gave it up: nothing that still comes is heard
	code     int   // with this status
	err      error // for this reason
}

// run makes connections until the client is closed.
func (c *Client) run() {
	defer c.cancel()
	for {
		code, err := c.attempt()
		c.mu.Lock()
		if c.ctx.Err() != nil {
			c.end(wrap(CodeClosed, RetryNo, "the client's context ended", context.Cause(c.ctx)))
			c.unlock()
			return
		}
		wait, fatal := c.lost(code, err)
		if fatal != nil {
			c.end(fatal)
			c.unlock()
			return
		}
		select {
		case <-c.wakeup: // of an earlier wait
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

var errSlow = fmt.Errorf("the gateway did not say welcome within %v", connectWithin)

// attempt makes one connection and returns when it has ended: with what
// status, and why.
func (c *Client) attempt() (code int, err error) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	c.mu.Lock()
	c.told, c.refusal = false, nil
	c.setStatus(Connecting)
	c.arm(connectWithin, func() {
		cancel(errSlow)
		c.drop(lostAbnormally, errSlow)
	})
	fetch := c.options.Token != nil && !c.haveToken
	if fetch {
		c.fetched = time.Now()
	}
	url := c.options.URLs[c.url%len(c.options.URLs)]
	c.unlock()

	if fetch {
		token, err := c.options.Token(ctx)
		c.mu.Lock()
		if err != nil && c.ctx.Err() == nil {
			c.report(wrap(CodeUnavailable, RetryLater, "can't get a token", err))
		}
		if err == nil {
			c.token, c.haveToken, c.fresh = token, true, token != c.spent || c.spent == ""
		}
		c.unlock()
		if err != nil {
			return lostAbnormally, fmt.Errorf("can't get a token: %w", err)
		}
	}

	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{subprotocol}, HTTPClient: c.options.HTTPClient})
	switch {
	case err != nil && ctx.Err() != nil:
		return lostAbnormally, context.Cause(ctx)
	case err != nil && resp != nil:
		return lostAbnormally, fmt.Errorf("%s refuses the connection: %s: %s", url, resp.Status, why(resp))
	case err != nil:
		return lostAbnormally, err
	}
	conn.SetReadLimit(readBytes)
	s := &session{conn: conn, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(c.ctx)) // the parting takes a moment
	return c.serve(s)
}

// why is what a server says about a handshake that it refuses.
func why(resp *http.Response) string {
	var said struct{ Message, Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err == nil && cmp.Or(said.Detail, said.Message) != "" {
		return cmp.Or(said.Detail, said.Message)
	}
	return "is it a gateway of Ganglion?"
}

// serve says hello and hears what the gateway has to say until it has gone.
func (c *Client) serve(s *session) (code int, err error) {
	defer s.cancel()
	c.mu.Lock()
	c.session = s
	c.lastSeen = time.Now()
	hello := helloFrame{Op: "hello", ID: c.id(), Token: c.token, Client: c.options.ClientID, Log: c.log}
	if !c.bare {
		hello.Subscriptions = c.helloSubscriptions()
	}
	c.say(encode(hello))
	c.unlock()

	defer c.when(c.ctx, func() { // in case that the parting gets stuck
		select {
		case <-time.After(closeWithin):
			s.cancel()
		case <-s.ctx.Done():
		}
	})()
	var writing sync.WaitGroup
	writing.Go(func() { c.write(s) })
	err = c.read(s)
	s.cancel()
	_ = s.conn.CloseNow() // it has ended
	writing.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	var closed websocket.CloseError
	switch {
	case s.over:
		return s.code, s.err
	case errors.As(err, &closed):
		return int(closed.Code), fmt.Errorf("the gateway closed the connection: %s (%d)", closed.Reason, int(closed.Code))
	}
	return lostAbnormally, fmt.Errorf("the connection broke: %w", err)
}

// say queues a frame for the session's writer.
func (c *Client) say(frame []byte) {
	s := c.session
	if s == nil || s.over {
		return
	}
	s.out = append(s.out, frame)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write writes what is queued, several frames in a message, and parts with
// the gateway when the client is closed.
func (c *Client) write(s *session) {
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		case <-c.ctx.Done():
			_ = s.conn.Close(websocket.StatusNormalClosure, "") // the client is closed, however this ends
			s.cancel()
			return
		}
		c.mu.Lock()
		out, most := s.out, messageBytes
		s.out = nil
		if c.welcomed && c.limits.FrameBytes > 0 {
			most = min(most, c.limits.FrameBytes)
		}
		c.mu.Unlock()
		for len(out) > 0 {
			n, size := 1, len(out[0])
			for n < len(out) && size+1+len(out[n]) <= most {
				size += 1 + len(out[n])
				n++
			}
			if err := s.conn.Write(s.ctx, websocket.MessageText, bytes.Join(out[:n], []byte("\n"))); err != nil {
				c.unwritable(s, err)
				return
			}
			out = out[n:]
		}
	}
}

// unwritable gives a session up that can't be written to, once its reader had
// the time to find out why: the gateway may have said it.
func (c *Client) unwritable(s *session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after(closeWithin, func() {
		if c.session == s {
			c.drop(lostAbnormally, fmt.Errorf("the connection broke: %w", err))
		}
	})
}

func (c *Client) read(s *session) error {
	var buf bytes.Buffer
	for {
		_, message, err := s.conn.Reader(s.ctx)
		if err != nil {
			return err
		}
		if buf.Cap() > 1<<20 {
			buf = bytes.Buffer{} // one long message is not kept for ever
		}
		buf.Reset()
		if _, err := io.Copy(&buf, message); err != nil {
			return err
		}
		c.mu.Lock()
		c.lastSeen, c.probing = time.Now(), false
		for line := range bytes.SplitSeq(buf.Bytes(), []byte("\n")) {
			if s.over || c.status == Closed {
				break
			}
			if len(bytes.TrimSpace(line)) > 0 {
				c.receive(line)
			}
		}
		c.unlock()
	}
}

// receive takes one frame.
func (c *Client) receive(line []byte) {
	a, err := parse(line)
	if err != nil {
		e := wrap(CodeProtocol, RetryLater, "the server sent what is no frame", err)
		c.report(e)
		c.drop(lostAbnormally, e)
		return
	}
	switch {
	case a.Op == "welcome":
		c.opened(a)
	case a.Op == "expiring":
		left := time.Duration(a.InMS) * time.Millisecond
		c.expires = time.Now().Add(left)
		c.renewIn(time.Until(c.fetched.Add(left / 2)))
	case a.Op == "goodbye":
		away := min(time.Duration(a.ReconnectInMS)*time.Millisecond, longestAway)
		c.away = &away
	case a.Op == "error" && !c.welcomed:
		c.refusal = a
	case a.ID != "" && a.ID == c.auth:
		c.auth = ""
		if a.Op == "error" {
			c.notRenewed(a.failure())
		} else {
			c.failures = 0
		}
	case (a.Op == "result" || a.Op == "error") && c.answered(a):
	case c.heard(a):
	case a.Op == "error":
		c.report(a.failure())
	}
}

// opened begins a session that was welcomed.
func (c *Client) opened(welcome *answer) {
	known := c.log
	c.log = welcome.Log
	if known != "" && known != welcome.Log {
		// The gateway refuses all that resumes, for as long as this session lasts.
		c.otherLog()
		c.drop(closeAnotherWay, fmt.Errorf("the log is another one: %s instead of %s", welcome.Log, known))
		return
	}
	c.welcomed, c.fresh, c.stale, c.connErr = true, false, 0, nil
	c.limits = welcome.Limits
	c.heart = cmp.Or(time.Duration(welcome.HeartbeatMS)*time.Millisecond, 25*time.Second)
	c.since = time.Now()
	c.watch()
	c.openSubscriptions()
	c.openRequests()
	c.settle()
}

// arm sets the connection's one timer: until welcome, until the next ping.
func (c *Client) arm(d time.Duration, f func()) {
	c.watchdog.stop()
	c.watchdog = c.after(d, f)
}

// watch waits for silence, which a heartbeat should have broken.
func (c *Client) watch() {
	allowed := c.heart * 3 / 2
	if left := min(allowed, allowed-time.Since(c.lastSeen)); left > 0 {
		c.arm(left, c.watch)
	} else {
		c.probe()
	}
}

// probe finds out whether the connection lives.
func (c *Client) probe() {
	if c.probing {
		return
	}
	c.probing = true
	c.say(encode(smallFrame{Op: "ping", ID: c.id()}))
	c.arm(pongWithin, func() {
		if c.probing {
			c.drop(lostAbnormally, errors.New("the gateway is silent"))
		} else {
			c.watch()
		}
	})
}

// renewIn renews the token after a while, if that is in time: else the gateway
// will close, and the next session gets a new one.
func (c *Client) renewIn(wait time.Duration) {
	if c.options.Token == nil || c.session.renewing || time.Until(c.expires) < wait+time.Second {
		return
	}
	c.renewal.stop()
	c.renewal = nil
	if wait > 0 {
		c.renewal = c.after(wait, c.renew)
	} else {
		c.renew()
	}
}

// renew fetches a token for the session, and gives it to the gateway.
func (c *Client) renew() {
	s := c.session
	if s == nil {
		return
	}
	s.renewing = true
	c.fetched = time.Now()
	c.work.Go(func() {
		token, err := c.options.Token(s.ctx)
		c.mu.Lock()
		defer c.unlock()
		s.renewing = false
		switch {
		case c.session != s || s.over || c.status == Closed:
		case err != nil:
			c.notRenewed(wrap(CodeUnauthenticated, RetryLater, "the token function failed", err))
		case token == c.token:
			// Perhaps a cache's. There may be another when half of the time that is
			// left has passed.
			c.renewIn(time.Until(c.expires) / 2)
		default:
			c.token, c.haveToken, c.auth = token, true, c.id()
			c.say(encode(smallFrame{Op: "auth", ID: c.auth, Token: token}))
		}
	})
}

// notRenewed takes note that the token could not be fetched, or was refused.
func (c *Client) notRenewed(err *Error) {
	err.Message, err.Retry = "can't renew the token: "+err.Message, RetryLater
	c.report(err)
	c.renewIn(min(c.backoff(c.failures, 10*time.Second, longestWait), time.Until(c.expires)/2))
	c.failures++
}

// elsewhere moves to another gateway after a pause that grows with each move:
// this one can't serve something that others may. It returns false if others
// were asked for unknown names and did not know them either.
func (c *Client) elsewhere(unknown bool) bool {
	if c.moving != nil {
		return true
	}
	if time.Since(c.since) >= calmAfter {
		c.moves, c.unknown = 0, 0
	}
	if unknown {
		if c.unknown >= max(leastAsked, len(c.options.URLs)-1) {
			return false
		}
		c.unknown++
	}
	c.moving = c.after(c.backoff(c.moves, 500*time.Millisecond, longestAway), func() {
		c.drop(moved, errors.New("the client moves to another gateway"))
	})
	c.moves++
	return true
}

// drop gives the session up, as if it had been closed with this status.
func (c *Client) drop(code int, err error) {
	s := c.session
	if s == nil || s.over {
		return
	}
	s.over, s.code, s.err = true, code, err
	s.cancel()
}

// lost takes note of the end of a connection. It returns how long to wait
// before the next, or why there is to be none.
func (c *Client) lost(code int, err error) (wait time.Duration, fatal *Error) {
	welcomed := c.welcomed
	for _, t := range []*timer{c.watchdog, c.renewal, c.moving} {
		t.stop()
	}
	c.renewal, c.moving, c.auth, c.failures = nil, nil, "", 0
	c.welcomed, c.probing = false, false
	c.connErr = err
	if welcomed && time.Since(c.since) >= settledAfter {
		c.attempts = 0
	}
	c.url++
	c.lostSubscriptions()
	c.lostRequests()

	away := c.away
	c.away = nil
	first := c.attempts == 0
	band := code / 100
	switch {
	case code == closeNoToken && c.options.Token != nil && (welcomed || !c.fresh && c.stale < mostStale):
	case band == 40 || code == closeTooLarge:
		return 0, c.fatal(code, err)
	}
	c.reportRefusal(band == 41, err)
	c.bare = c.refusal != nil
	switch {
	case code == closeNoToken:
		if !welcomed {
			c.stale++
		}
		c.haveToken, c.token, c.spent = false, "", c.token // it has expired: a new one may do
		if first {
			c.attempts++
			return 0, nil
		}
	case away != nil:
		c.told = true
		c.attempts++
		return *away, nil
	case band == 41:
		c.attempts = max(c.attempts, 4)
		c.told = true
	case code == moved, band == 42 && first:
		c.attempts++
		return 0, nil
	}
	wait = c.backoff(c.attempts, 500*time.Millisecond, longestWait)
	c.attempts++
	return wait, nil
}

// reportRefusal reports why a gateway did not take the client, if it said so
// in answer to hello or by a close code of those that mean it.
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

// fatal is why a client does not come back.
func (c *Client) fatal(code int, err error) *Error {
	e := &Error{Code: CodeProtocol, Message: err.Error(), Retry: RetryNo}
	if c.refusal != nil {
		e = c.refusal.failure()
		e.Retry = RetryNo
	}
	switch code {
	case closeNoToken:
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

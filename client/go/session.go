package ganglion

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// session is one WebSocket connection.
type session struct {
	conn   *websocket.Conn
	ctx    context.Context // ends the connection without a close handshake
	cancel context.CancelFunc
	wake   chan struct{} // signals frames in out; has capacity 1

	// Guarded by the client's lock.
	out       [][]byte
	renewing  bool  // a token is being fetched
	abandoned bool  // the client gave it up and ignores further frames
	code      int   // close code, if abandoned
	err       error // reason, if abandoned
}

// serve sends hello and handles frames until the connection has ended.
func (c *Client) serve(s *session) (code int, err error) {
	defer s.cancel()
	c.mu.Lock()
	c.session = s
	c.lastSeen = time.Now()
	hello := helloFrame{Op: "hello", ID: c.id(), Token: c.token, Client: c.options.ClientID, Log: c.log}
	if !c.bareHello {
		hello.Subscriptions = c.helloSubscriptions()
	}
	c.enqueue(encode(hello))
	c.unlock()

	defer c.afterContext(c.ctx, func() { // if the close handshake hangs
		select {
		case <-time.After(closeTimeout):
			s.cancel()
		case <-s.ctx.Done():
		}
	})()
	var writing sync.WaitGroup
	writing.Go(func() { c.writeLoop(s) })
	err = c.readLoop(s)
	s.cancel()
	_ = s.conn.CloseNow() // already ended
	writing.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	var closed websocket.CloseError
	switch {
	case s.abandoned:
		return s.code, s.err
	case errors.As(err, &closed):
		return int(closed.Code), fmt.Errorf("the gateway closed the connection: %s (%d)", closed.Reason, int(closed.Code))
	}
	return closeAbnormal, fmt.Errorf("the connection broke: %w", err)
}

// enqueue queues a frame for the session's writer.
func (c *Client) enqueue(frame []byte) {
	s := c.session
	if s == nil || s.abandoned {
		return
	}
	s.out = append(s.out, frame)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// writeLoop writes the queued frames, several in a message, and closes the
// connection when the client is closed.
func (c *Client) writeLoop(s *session) {
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		case <-c.ctx.Done():
			_ = s.conn.Close(websocket.StatusNormalClosure, "") // the client is closed either way
			s.cancel()
			return
		}
		c.mu.Lock()
		out, most := s.out, maxMessageBytes
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
				c.dropUnwritable(s, err)
				return
			}
			out = out[n:]
		}
	}
}

// dropUnwritable gives up a session after a write failed. It first gives the
// reader closeTimeout to receive a close frame, which has the gateway's reason.
func (c *Client) dropUnwritable(s *session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after(closeTimeout, func() {
		if c.session == s {
			c.dropSession(closeAbnormal, fmt.Errorf("the connection broke: %w", err))
		}
	})
}

func (c *Client) readLoop(s *session) error {
	var buf bytes.Buffer
	for {
		_, message, err := s.conn.Reader(s.ctx)
		if err != nil {
			return err
		}
		if buf.Cap() > 1<<20 {
			buf = bytes.Buffer{} // release the memory of a long message
		}
		buf.Reset()
		if _, err := io.Copy(&buf, message); err != nil {
			return err
		}
		c.mu.Lock()
		c.lastSeen, c.probing = time.Now(), false
		for line := range bytes.SplitSeq(buf.Bytes(), []byte("\n")) {
			if s.abandoned || c.status == Closed {
				break
			}
			if len(bytes.TrimSpace(line)) > 0 {
				c.receive(line)
			}
		}
		c.unlock()
	}
}

// receive handles one frame.
func (c *Client) receive(line []byte) {
	a, err := parse(line)
	if err != nil {
		e := wrap(CodeProtocol, RetryLater, "the server sent an invalid frame", err)
		c.report(e)
		c.dropSession(closeAbnormal, e)
		return
	}
	switch {
	case a.Op == "welcome":
		c.handleWelcome(a)
	case a.Op == "expiring":
		left := time.Duration(a.InMS) * time.Millisecond
		c.tokenExpires = time.Now().Add(left)
		c.scheduleRenewal(time.Until(c.tokenFetched.Add(left / 2)))
	case a.Op == "goodbye":
		away := min(time.Duration(a.ReconnectInMS)*time.Millisecond, maxAway)
		c.reconnectIn = &away
	case a.Op == "error" && !c.welcomed:
		c.refusal = a
	case a.ID != "" && a.ID == c.authID:
		c.authID = ""
		if a.Op == "error" {
			c.renewalFailed(a.failure())
		} else {
			c.renewalFailures = 0
		}
	case (a.Op == "result" || a.Op == "error") && c.handleAnswer(a):
	case c.handleSubscriptionFrame(a):
	case a.Op == "error":
		c.report(a.failure())
	}
}

// handleWelcome begins a session.
func (c *Client) handleWelcome(welcome *gatewayFrame) {
	known := c.log
	c.log = welcome.Log
	if known != "" && known != welcome.Log {
		// This session sent the old log id, so the gateway refuses its cursors.
		c.endOtherLog()
		c.dropSession(closeLost, fmt.Errorf("the gateway has log %s, this client knows log %s", welcome.Log, known))
		return
	}
	c.welcomed, c.tokenIsFresh, c.staleRefusals, c.connErr = true, false, 0, nil
	c.limits = welcome.Limits
	c.heartbeatEvery = cmp.Or(time.Duration(welcome.HeartbeatMS)*time.Millisecond, 25*time.Second)
	c.welcomedAt = time.Now()
	c.watchSilence()
	c.sendSubscribes()
	c.sendAllLanes()
	c.updateStatus()
}

// dropSession gives up the session, as if the gateway had closed it with code.
func (c *Client) dropSession(code int, err error) {
	s := c.session
	if s == nil || s.abandoned {
		return
	}
	s.abandoned, s.code, s.err = true, code, err
	s.cancel()
}

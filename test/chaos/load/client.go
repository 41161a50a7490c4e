package load

import (
	"context"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// timeout is the timeout of commands. After patience without a reply, a client
	// leaves its gateway.
	timeout  = 3 * time.Second
	patience = timeout + 500*time.Millisecond
	// dialTimeout bounds a handshake, since a host that is cut off does not reply.
	dialTimeout = 2 * time.Second
	// homeAfter is the time after which a client returns to its own gateway.
	homeAfter = 3 * time.Second
)

// client has one session at a time, with its own gateway if it can reach it.
type client struct {
	load    *Load
	id      string
	home    int // index of its gateway
	at      int // index of the current or next gateway
	session *harness.Session
	old     []*harness.Session // sessions after goodbye
	left    time.Time          // time at which it left its own gateway
}

func newClient(l *Load, id string, home int) *client {
	home %= len(l.cfg.Gateways)
	return &client{load: l, id: id, home: home, at: home}
}

// connect returns an open session, and opens one if needed.
func (c *client) connect(ctx context.Context) (*harness.Session, error) {
	if c.session != nil {
		select {
		case <-c.session.Done():
			c.leave()
		default:
			if c.session.Leaving() {
				// The gateway still replies to earlier requests.
				c.old, c.session = append(c.old, c.session), nil
				c.leave()
				break
			}
			if c.at == c.home || time.Since(c.left) < homeAfter {
				return c.session, nil
			}
			c.session.Close()
			c.session, c.at = nil, c.home
		}
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		s, err := harness.Dial(attempt, c.load.cfg.Gateways[c.at].URL, c.id, nil)
		cancel()
		if err == nil {
			c.session = s
			return s, nil
		}
		c.leave()
		if !pause(ctx, 5*time.Millisecond) {
			return nil, err
		}
	}
}

// leave closes the session, and selects the next gateway.
func (c *client) leave() {
	if c.session != nil {
		c.session.Close()
		c.session = nil
	}
	if c.at == c.home {
		c.left = time.Now()
	}
	c.at = (c.at + 1) % len(c.load.cfg.Gateways)
}

func (c *client) close() {
	for _, s := range append(c.old, c.session) {
		if s != nil {
			s.Close()
		}
	}
}

func frameOf(cmd *check.Command) map[string]any {
	data := map[string]any{}
	switch cmd.Name {
	case "add":
		data["by"] = cmd.Amount
	case "bid":
		data["amount"] = cmd.Amount
	case "open":
		data["item"], data["reserve"], data["closes_at"] = "lamp", cmd.Amount, "2099-01-01T00:00:00Z"
		if !cmd.ClosesAt.IsZero() {
			data["closes_at"] = cmd.ClosesAt.UTC()
		}
	}
	f := map[string]any{
		"op": "command", "aggregate": cmd.Stream, "command": cmd.Name, "key": cmd.Key,
		"data": data, "timeout_ms": timeout.Milliseconds(),
	}
	if cmd.Expect != nil {
		f["expect"] = *cmd.Expect
	}
	return f
}

// send pipelines commands on one session, and then retries each in turn until its
// outcome is known or ctx ends. It returns the errors of the attempts.
func (c *client) send(ctx context.Context, cmds []*check.Command) (errors []string) {
	type sent struct {
		session *harness.Session
		reply   <-chan harness.Frame
	}
	first, burst := make([]sent, len(cmds)), c.load.Now()
	for _, cmd := range cmds {
		cmd.Call, cmd.Attempts, cmd.Burst = burst, 1, burst
	}
	s, err := c.connect(ctx)
	for i, cmd := range cmds {
		if err == nil {
			var reply <-chan harness.Frame
			if reply, err = s.Start(ctx, frameOf(cmd)); err == nil {
				first[i] = sent{s, reply}
			}
		}
	}
	for i, cmd := range cmds {
		f, err := c.wait(ctx, first[i].session, first[i].reply)
		for !c.complete(cmd, f, err) {
			errors = append(errors, reason(f, err))
			if err == nil && f.Retry == "later" {
				pause(ctx, max(5*time.Millisecond, time.Duration(f.AfterMS)*time.Millisecond))
			}
			if ctx.Err() != nil {
				return errors
			}
			cmd.Attempts++
			f, err = c.call(ctx, frameOf(cmd))
		}
	}
	return errors
}

// wait waits for a reply, and leaves the gateway if none arrives.
func (c *client) wait(ctx context.Context, s *harness.Session, reply <-chan harness.Frame) (harness.Frame, error) {
	if s == nil {
		return harness.Frame{}, fmt.Errorf("not sent")
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case f := <-reply:
		return f, nil
	case <-s.Done():
		select {
		case f := <-reply:
			return f, nil
		default:
			return harness.Frame{}, fmt.Errorf("connection lost")
		}
	case <-timer.C:
		if c.session == s {
			c.leave()
		}
		return harness.Frame{}, fmt.Errorf("no answer")
	case <-ctx.Done():
		return harness.Frame{}, ctx.Err()
	}
}

func (c *client) call(ctx context.Context, frame map[string]any) (harness.Frame, error) {
	s, err := c.connect(ctx)
	if err != nil {
		return harness.Frame{}, err
	}
	reply, err := s.Start(ctx, frame)
	if err != nil {
		return harness.Frame{}, fmt.Errorf("connection lost")
	}
	return c.wait(ctx, s, reply)
}

// complete records the outcome of a command. It returns false if the reply asks for
// a retry.
func (c *client) complete(cmd *check.Command, f harness.Frame, err error) bool {
	switch {
	case err != nil || f.Retry == "same_key" || f.Retry == "later":
		return false
	case f.Op == "result":
		cmd.Outcome, cmd.Version, cmd.Position = check.Done, f.Version, f.Position
	case f.Code == "rejected":
		cmd.Outcome, cmd.Reason = check.Rejected, f.Reason
	case f.Code == "conflict":
		cmd.Outcome, cmd.Version = check.Conflict, f.Version
	default:
		// No command of this load may get another reply. The checker reports it as a
		// rejection with an unknown reason.
		cmd.Outcome, cmd.Reason = check.Rejected, f.Code+": "+f.Message
	}
	cmd.Return = c.load.Now()
	return true
}

func reason(f harness.Frame, err error) string {
	if err != nil {
		return err.Error()
	}
	return f.Code + ", " + f.Retry
}

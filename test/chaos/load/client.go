package load

import (
	"context"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// timeout is what clients ask for, and patience how long they wait for an
	// answer before they take their gateway for dead.
	timeout  = 3 * time.Second
	patience = timeout + 500*time.Millisecond
	// dialMost is how long a handshake may take. A host that is cut off says
	// nothing.
	dialMost = 2 * time.Second
	// homeAfter is how long a client that lost its gateway stays with another.
	homeAfter = 3 * time.Second
)

// client is one session at a time, to its own gateway if that can be reached.
type client struct {
	load    *Load
	id      string
	home    int // index of its gateway
	at      int // of the one it is connected to, or tries next
	session *harness.Session
	old     []*harness.Session // that said goodbye
	left    time.Time          // when it left home
}

func newClient(l *Load, id string, home int) *client {
	home %= len(l.cfg.Gateways)
	return &client{load: l, id: id, home: home, at: home}
}

// connect returns a session that lives, if any gateway answers in time.
func (c *client) connect(ctx context.Context) (*harness.Session, error) {
	if c.session != nil {
		select {
		case <-c.session.Done():
			c.leave()
		default:
			if c.session.Leaving() {
				// It still answers what was sent to it.
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
		attempt, cancel := context.WithTimeout(ctx, dialMost)
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

// leave gives its gateway up for the next one.
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

// send pipelines commands on one session, and sees to it that the outcome of
// each is known, one after another, if ctx leaves it the time. It returns what
// went wrong on the way.
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
		for !c.settle(cmd, f, err) {
			errors = append(errors, what(f, err))
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

// wait waits for an answer, and leaves a gateway that gives none.
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

// settle takes an answer as a command's outcome, if it is one.
func (c *client) settle(cmd *check.Command, f harness.Frame, err error) bool {
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
		// Nothing that this load sends deserves another answer; as a rejection
		// for a reason that no rule has, the checker reports it.
		cmd.Outcome, cmd.Reason = check.Rejected, f.Code+": "+f.Message
	}
	cmd.Return = c.load.Now()
	return true
}

func what(f harness.Frame, err error) string {
	if err != nil {
		return err.Error()
	}
	return f.Code + ", " + f.Retry
}

package router

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
)

// systemTimeout bounds SendSystem if the command and the context have no deadline.
const systemTimeout = 30 * time.Second

// SendSystem carries a command of the program itself to its owner, and blocks until
// it has its outcome or ctx ends. The command's key and client must begin with ~.
// SendSystem sets System and ClientKey, so an outcome without events is kept too.
//
// Commands have no order, unless the caller waits for an outcome before it sends the
// next one, or sets the same Session for those of one stream. Without a deadline the
// command has 30 s, and never more than ctx has. After a failure with retry "later"
// or "same_key" the same key may be sent again. While a member of the cluster would
// not pass on such commands, because its program is older, the failure is unavailable.
func (r *Router) SendSystem(ctx context.Context, c command.Command) command.Outcome {
	c.System, c.ClientKey = true, true
	if f := c.CheckReserved(); f != nil {
		return command.Failed(f)
	}
	if r.cfg.View != nil {
		if v := r.cfg.View(); v != nil {
			if old := v.WithoutSystem(); old != "" {
				return command.Failed(command.Unavailable("member %s runs a program that does not know commands of the system: they begin once it is upgraded", old))
			}
		}
	}
	if c.Deadline.IsZero() {
		c.Deadline = time.Now().Add(systemTimeout)
	}
	if d, ok := ctx.Deadline(); ok && d.Before(c.Deadline) {
		c.Deadline = d
	}
	if c.Session == "" {
		c.Session = c.Client + " " + c.Key // a lane of its own
	}
	outcome := make(chan command.Outcome, 1)
	r.Send(c, func(o command.Outcome) { outcome <- o })
	select {
	case o := <-outcome:
		return o
	case <-ctx.Done():
		return command.Failed(command.Timeout(command.RetrySameKey, "the sender of the command stopped waiting: %v", ctx.Err()))
	}
}

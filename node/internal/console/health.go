package console

import (
	"context"
	"time"
)

const (
	// VerifyAction is the action that checks the whole log.
	VerifyAction = "verify"
	// auditReads bounds the reads of the stream of the actions that seek it.
	auditReads = 5
	// growthTime is the time for which the growth of the log is shown.
	growthTime = 24 * time.Hour
)

// healthView is what the page Health shows of the log and its database.
type healthView struct {
	Database int64  `json:"database"`       // bytes
	Log      int64  `json:"log,omitempty"`  // bytes of the commits and their indexes, missing if not known
	Free     *int64 `json:"free,omitempty"` // bytes on the database's disk, missing if not known
	Head     uint64 `json:"head"`
	// DayEvents is the number of events of the last 24 hours.
	DayEvents uint64      `json:"day_events"`
	Verify    *verifyView `json:"verify,omitempty"` // missing if none was found
}

// verifyView is the last check of the log.
type verifyView struct {
	At     string `json:"at"` // RFC 3339; when it began
	Ended  string `json:"ended,omitempty"`
	Failed bool   `json:"failed,omitempty"`
	Text   string `json:"text,omitempty"` // missing for viewers
}

// viewHealth reads what the page Health shows.
func (c *Console) viewHealth(ctx context.Context) (whole, masked any, err error) {
	size, err := c.cfg.Size(ctx)
	if err != nil {
		return nil, nil, err
	}
	head, err := c.reader.head(ctx)
	if err != nil {
		return nil, nil, err
	}
	before, err := c.reader.since(ctx, c.cfg.Now().Add(-growthTime), head)
	if err != nil {
		return nil, nil, err
	}
	v := healthView{Database: size.Database, Log: size.Log, Head: uint64(head), DayEvents: uint64(head - min(before, head))}
	if size.Free >= 0 {
		v.Free = &size.Free
	}
	if v.Verify, err = c.lastVerify(ctx); err != nil {
		return nil, nil, err
	}
	m := v
	if v.Verify != nil {
		verify := *v.Verify
		verify.Text = ""
		m.Verify = &verify
	}
	return v, m, nil
}

// lastVerify returns the newest check of the log that an operator began on the console,
// among the newest actions; nil if there is none.
func (c *Console) lastVerify(ctx context.Context) (*verifyView, error) {
	if c.cfg.NoActions != "" {
		return nil, nil
	}
	head, err := c.cfg.Log.StreamHead(ctx, c.ops())
	if err != nil {
		return nil, err
	}
	outcomes := map[uint64]auditEntry{} // by the position of their request
	for last, n := head.Version, 0; last > 0 && n < auditReads; n++ {
		after := last - min(last, auditEvents)
		commits, err := c.cfg.Audit.ReadStream(ctx, c.ops(), after, int(last-after))
		if err != nil {
			return nil, err
		}
		for i := len(commits) - 1; i >= 0; i-- {
			e := entryOf(&commits[i], Operator)
			if e.Of != 0 {
				outcomes[e.Of] = e
			}
			if e.Action == VerifyAction {
				outcome := outcomes[e.Position]
				return &verifyView{At: e.At, Ended: outcome.At, Failed: outcome.Failed, Text: outcome.Text}, nil
			}
		}
		last = after
	}
	return nil, nil
}

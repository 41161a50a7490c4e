package processor

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// resumeSQL is resume for a projection that writes with SQL: the waiting events of
// the stream are applied at the checkpoint, up to one that fails again.
func (m *Mender) resumeSQL(ctx context.Context, b rows.Block, skip bool) (Mended, error) {
	for attempt := range mendAttempts {
		if attempt >= 2 {
			if err := m.Table.Interrupt(ctx, b.Segment); err != nil {
				return Mended{}, err
			}
		}
		done, err := m.attemptSQL(ctx, b, skip)
		if !errors.Is(err, rows.ErrFenced) {
			return done, err
		}
	}
	return Mended{}, fmt.Errorf("the segment moved during each of %d attempts: pause the projection, then try again", mendAttempts)
}

func (m *Mender) attemptSQL(ctx context.Context, b rows.Block, skip bool) (Mended, error) {
	table, ok := m.Table.(SQLTable)
	if !ok {
		return Mended{}, fmt.Errorf("projection %q needs PostgreSQL", m.SQL.Name())
	}
	w := &mend{Mender: m, target: b}
	if err := w.read(ctx); err != nil {
		return Mended{}, err
	}
	commits, err := w.waitingSQL(ctx)
	if err != nil {
		return Mended{}, err
	}
	s := &segment{cfg: &Config{SQL: m.SQL}, at: b.Position - 1}
	if skip {
		s.at = b.Position
	}
	c := w.checkpoint
	done := Mended{Build: table.Build().ID, Key: b.Key, Segment: b.Segment}
	batch := rows.Batch{Segment: b.Segment, From: c.Position, To: c.Position, Key: c.Key, Mends: c.Mends, Unblock: []string{b.Key}}
	if skip {
		batch.Skip = []rows.Skip{{Key: b.Key, Segment: b.Segment, Position: b.Position}}
	}
	last := c.Position
	for {
		until := last
		err := table.WriteWith(ctx, batch, func(ctx context.Context, tx pgx.Tx) error {
			done.Events, err = s.applyWaiting(ctx, tx, commits, until)
			return err
		})
		var failed *fault
		switch {
		case !errors.As(err, &failed):
			return done, err
		case failed.position <= b.Position && !skip:
			done.Events, done.Blocks = 0, []rows.Block{blockOf(failed, b.Segment, 1)}
			return done, nil // nothing has changed
		}
		last = failed.position - 1 // once more, up to the event that fails
		batch.Unblock, batch.Block = nil, []rows.Block{blockOf(failed, b.Segment, 1)}
		done.Blocks = batch.Block
	}
}

// waitingSQL reads the commits of the stream from the blocked event up to the
// checkpoint.
func (w *mend) waitingSQL(ctx context.Context) (waiting []eventstore.Commit, err error) {
	stream, ok := w.stream()
	if !ok {
		return nil, fmt.Errorf("%q is no stream", w.target.Key)
	}
	err = w.eachStreamPage(ctx, stream, w.target.Position-1, func(commits []eventstore.Commit) error {
		waiting = append(waiting, commits...)
		return nil
	})
	return waiting, err
}

// applyWaiting applies the events of commits up to a position, and counts them.
// The error is a *fault, or aggregate.ErrUnknownEvent.
func (s *segment) applyWaiting(ctx context.Context, tx pgx.Tx, commits []eventstore.Commit, until eventstore.Position) (n int, err error) {
	for i := range commits {
		c := &commits[i]
		for k, e := range c.Events {
			name := aggregate.EventName{Type: c.Stream.Type, Event: e.Type}
			position := c.First() + eventstore.Position(k)
			if position <= s.at || position > until || !s.cfg.SQL.Reads(name) {
				continue
			}
			err := s.applySQLEvent(ctx, tx, c, k, name)
			for _, check := range []string{"set constraints all immediate", "set constraints all deferred"} {
				if err == nil { // a constraint that is deferred must name its event
					_, err = tx.Exec(ctx, check)
				}
			}
			switch {
			case errors.Is(err, aggregate.ErrUnknownEvent):
				return n, err
			case err != nil:
				return n, &fault{streamKey(c.Stream), position, err}
			}
			n++
		}
	}
	return n, nil
}

package processor

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// firstSQLCommits is how many commits the first batch of a projection that writes
// with SQL has. Batches grow from there, so that one that is too slow for the
// store's deadline is followed by smaller ones.
const firstSQLCommits = 16

// SQLTable is a build of a projection that writes with SQL. Package postgres
// implements it.
type SQLTable interface {
	rows.Table
	// Prepare creates the schema of the build and runs statements in it, once.
	Prepare(ctx context.Context, statements []string) error
	// WriteWith moves the checkpoint and calls do, in one transaction. The error of
	// do is returned, unless it is one of the database that says nothing about
	// the events.
	WriteWith(ctx context.Context, b rows.Batch, do func(context.Context, pgx.Tx) error) error
}

// SpecOfSQL describes the build of a projection that writes with SQL to a
// rows.Store. Its table of rows stays empty.
func SpecOfSQL(d *sqlprojection.Definition) rows.Spec {
	return rows.Spec{Projection: d.Name(), Fingerprint: d.Fingerprint(), Segments: 1}
}

// prepareSQL makes a build ready to be written.
func prepareSQL(ctx context.Context, d *sqlprojection.Definition, table rows.Table) (SQLTable, error) {
	t, ok := table.(SQLTable)
	if !ok {
		return nil, fmt.Errorf("projection %q needs PostgreSQL", d.Name())
	}
	return t, t.Prepare(ctx, d.Setup)
}

// advanceSQL is advance for a projection that writes with SQL.
func (s *segment) advanceSQL(ctx context.Context, p *prepared) error {
	if p.err != nil {
		return p.err
	}
	last := &p.commits[len(p.commits)-1]
	b := rows.Batch{Segment: s.fold.segment, From: s.at, To: last.Position, Mends: s.mends, Key: last.Key, Block: s.blocking}
	err := s.sql.WriteWith(ctx, b, func(ctx context.Context, tx pgx.Tx) error { return s.applySQL(ctx, tx, p.commits) })
	var failed *fault
	var invalid *rows.InvalidError
	switch {
	case err == nil:
		s.at, s.blocking = b.To, nil
		s.limit = min(s.limit*2, batchCommits)
		s.moved()
		return nil
	case errors.Is(err, aggregate.ErrUnknownEvent):
		return err
	case errors.As(err, &failed):
		s.fail(failed)
		return nil
	case errors.As(err, &invalid) && len(p.commits) > 1:
		s.limit = 1 // find the commit that the database refuses at its end
		return nil
	case errors.As(err, &invalid):
		s.fail(&fault{streamKey(last.Stream), last.First(), invalid})
		return nil
	}
	return err
}

// applySQL calls the handlers of commits. The error is a *fault, or
// aggregate.ErrUnknownEvent.
func (s *segment) applySQL(ctx context.Context, tx pgx.Tx, commits []eventstore.Commit) error {
	for i := range commits {
		c := &commits[i]
		key := streamKey(c.Stream)
		for n, e := range c.Events {
			name := aggregate.EventName{Type: c.Stream.Type, Event: e.Type}
			position := c.First() + eventstore.Position(n)
			if position <= s.at || !s.cfg.SQL.Reads(name) || s.passes(key, position) {
				continue
			}
			err := s.applySQLEvent(ctx, tx, c, n, name)
			switch {
			case errors.Is(err, aggregate.ErrUnknownEvent):
				return err
			case err != nil:
				return &fault{key, position, err}
			}
		}
	}
	return nil
}

func (s *segment) applySQLEvent(ctx context.Context, tx pgx.Tx, c *eventstore.Commit, n int, name aggregate.EventName) (err error) {
	defer recovered(&err)
	event, err := s.cfg.SQL.Decode(name, c.Events[n].Form, c.Events[n].Data)
	if err != nil {
		return err
	}
	return s.cfg.SQL.Apply(ctx, tx, atOf(c, n), name, event)
}

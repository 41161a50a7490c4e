package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// WritesSQL marks a rows.Store whose tables can write with SQL.
func (r *rowStore) WritesSQL() {}

// maxSchema is how many bytes a name has in PostgreSQL.
const maxSchema = 63

// buildSchema returns the schema that a build has if it writes with SQL.
func (r *rowStore) buildSchema(projection string, id int64) string {
	return r.s.cfg.Schema + "_" + projection + "_" + strconv.FormatInt(id, 10)
}

func (t *rowTable) buildSchema() string { return t.r.buildSchema(t.spec.Projection, t.build.ID) }

// Prepare creates the schema of a build that writes with SQL, and runs statements
// in it, unless the schema exists. The error is rows.ErrDropped if the build was
// dropped.
func (t *rowTable) Prepare(ctx context.Context, statements []string) error {
	schema := t.buildSchema()
	if len(schema) > maxSchema {
		return fmt.Errorf("postgres: the schema %q of a build has a name of more than %d bytes: shorten the name of the projection", schema, maxSchema)
	}
	dropped := false
	err := t.r.change(ctx, "prepare the schema of "+t.spec.Projection, func(ctx context.Context, tx pgx.Tx) error {
		var exists bool
		err := tx.QueryRow(ctx, `select exists (select from pg_namespace where nspname = $1), not exists (select from processor_build where id = $2)`,
			schema, t.build.ID).Scan(&exists, &dropped)
		if err != nil || exists || dropped {
			return err
		}
		if _, err := tx.Exec(ctx, `create schema `+pgx.Identifier{schema}.Sanitize()); err != nil {
			return err
		}
		if err := t.searchSchema(ctx, tx); err != nil {
			return err
		}
		for i, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("statement %d of Setup: %w", i+1, err)
			}
		}
		return nil
	})
	if err == nil && dropped {
		err = rows.ErrDropped
	}
	return err
}

// searchSchema makes the tables of the build the first that a transaction finds,
// before extensions of the schema public.
func (t *rowTable) searchSchema(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `select set_config('search_path', $1, true)`, pgx.Identifier{t.buildSchema()}.Sanitize()+", public")
	return err
}

// WriteWith stores a batch without rows, and what do writes, in one transaction.
// The checkpoint moves first: a rival waits until this transaction ends, and is
// fenced then. An error of do is returned as it is, if the transaction was not
// ended by the server. The error of a statement that the server refuses at the end,
// such as that of a deferred constraint, is a *rows.InvalidError.
func (t *rowTable) WriteWith(ctx context.Context, b rows.Batch, do func(context.Context, pgx.Tx) error) error {
	args := t.arguments(b)
	var ours, fenced error
	err := t.with(ctx, "write with "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		ours, fenced = nil, nil
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if fenced = t.moveCheckpoint(ctx, tx, b, args); fenced != nil {
				return fenced
			}
			if err := t.searchSchema(ctx, tx); err != nil {
				return err
			}
			ours = do(ctx, tx)
			if ours == nil && c.PgConn().TxStatus() != 'T' {
				ours = errors.New("the handler has ended the transaction, or ignored an error of a statement")
			}
			if ours != nil && transient(ctx, c, ours) {
				err := ours
				ours = nil
				return err
			}
			return ours
		})
	})
	switch {
	case ours != nil:
		return ours
	case errors.Is(fenced, rows.ErrFenced), errors.Is(fenced, rows.ErrPaused), errors.Is(fenced, rows.ErrDropped):
		return fenced
	}
	return err
}

func (t *rowTable) moveCheckpoint(ctx context.Context, tx pgx.Tx, b rows.Batch, args []any) error {
	var w written
	if err := w.scan(tx.QueryRow(ctx, t.write, args...)); err != nil {
		return err
	}
	return w.outcome(b)
}

// transient reports whether an error of a handler says nothing about its event:
// the connection, a conflict with other transactions, or the server's resources.
func transient(ctx context.Context, c *pgx.Conn, err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		for _, class := range []string{"08", "40", "53", "55", "57", "58"} {
			if strings.HasPrefix(e.Code, class) {
				return true
			}
		}
		return fatal(e)
	}
	return c.IsClosed() || ctx.Err() != nil
}

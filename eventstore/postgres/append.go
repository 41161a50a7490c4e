package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

const (
	appendName = "ganglion_append"

	// appendSettings are the settings that the function append relies on. With
	// them, a plan that is made once, for an empty table, is also right for a
	// full one.
	appendSettings = `select set_config('plan_cache_mode', 'force_generic_plan', false),
		set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false), set_config('jit', 'off', false)`

	findName = "ganglion_find"
	findSQL  = `select k.i, f.* from unnest($1::text[], $2::text[], $3::text[]) with ordinality k (type, id, key, i)
		cross join lateral (
			(select c.version, c.pos, c.hash, c.at, c.meta, c.events, null::json
				from commit c where (c.key, c.agg_id, c.agg_type) between (k.key, k.id, k.type) and (k.key, k.id, k.type)
				order by c.key, c.agg_id, c.agg_type limit 1)
			union all
			(select o.version, 0, o.hash, o.at, null, null, o.answer
				from outcome o where (o.agg_id, o.agg_type, o.key) between (k.id, k.type, k.key) and (k.id, k.type, k.key)
				order by o.agg_id, o.agg_type, o.key limit 1)) f`
)

// carefulBatches is the number of batches after a known key for which keys are
// looked up before anything is stored. Resent commands, as after a failover,
// seldom arrive alone. See the function append.
const carefulBatches = 100

// noticeEvery bounds how often a warning of the server is logged.
const noticeEvery = time.Minute

// backend sends batches over one connection. One goroutine uses it.
type backend struct {
	store *Store
	conn  *driver.Conn // nil if there is none
	// localOnly is set if the server stops waiting for the synchronous standby
	// during a call.
	localOnly bool
	// careful counts down the careful batches.
	careful int
	params  *params

	noticed  time.Time // when a warning was last logged
	unlogged int       // warnings since then
}

// Ready implements batch.Backend.
func (b *backend) Ready() error {
	if b.conn != nil && !b.conn.Alive() {
		b.drop()
	}
	if b.conn == nil {
		if failure := b.connect(); failure != nil {
			return failure
		}
	}
	return nil
}

func (b *backend) connect() *batch.Failure {
	conn, err := b.store.dialer.ConnectUncancelled(b.notice, b.prepare)
	switch {
	case errors.Is(err, eventstore.ErrWentBack):
		return &batch.Failure{Kind: batch.WentBack, Reason: err.Error()}
	case err != nil:
		return &batch.Failure{Kind: batch.Down, Reason: reason(err)}
	}
	b.conn = conn
	return nil
}

func (b *backend) drop() {
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// notice handles a message that the server sends in addition to its results. Only
// one message means that a commit may be on the primary alone. It is recognised
// by the name of the server's function that sends it, because texts are
// translated. Other warnings are logged, at most one in noticeEvery, because some
// of them accompany every transaction.
func (b *backend) notice(n *pgconn.Notice) {
	switch {
	case n.SeverityUnlocalized != "WARNING":
		return
	case n.Routine == "SyncRepWaitForLSN":
		b.localOnly = true
		return
	case time.Since(b.noticed) < noticeEvery:
		b.unlogged++
		return
	}
	b.store.cfg.Logger.Warn("the database server sent a warning", "reason", driver.OneLine(n.Message), "code", n.Code, "unlogged", b.unlogged)
	b.noticed, b.unlogged = time.Now(), 0
}

func (b *backend) prepare(ctx context.Context, c *pgx.Conn) error {
	deadline := b.store.cfg.Deadline
	if err := b.store.prepareSession(ctx, c, deadline*3/10, deadline*4/10); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, appendSettings); err != nil {
		return err
	}
	if err := b.store.compare(ctx, c); err != nil {
		return err
	}
	for name, sql := range map[string]string{appendName: appendSQL, findName: findSQL} {
		if _, err := c.PgConn().Prepare(ctx, name, sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// warm connects, and makes the server plan three statements with empty
// parameters: an append, an append of a batch that may be stored, and the look-up
// of known keys. The last two follow a failover.
func (b *backend) warm() error {
	if failure := b.connect(); failure != nil {
		return failure
	}
	for _, mayBeStored := range []bool{false, true} {
		if _, failure := b.send(nil, mayBeStored); failure != nil {
			return failure
		}
	}
	_, err := b.call(findName, newKeys().values())
	return err
}

// Append implements batch.Backend.
func (b *backend) Append(units []*stored.Unit, mayBeStored bool) (batch.Result, error) {
	result, failure := b.send(units, mayBeStored)
	if failure == nil {
		return result, nil
	}
	switch failure.Kind {
	case batch.Refused, batch.Busy, batch.WentBack:
	default: // the connection is lost, or a new one may reach a new primary
		b.drop()
	}
	if failure.Kind == batch.WentBack {
		failure.Reason = b.store.core.Guard.WentBack().Error()
	}
	return batch.Result{}, failure
}

func (b *backend) call(name string, values [][]byte) (*pgconn.Result, error) {
	b.localOnly = false
	return b.conn.Call(name, values, b.store.cfg.Deadline/2)
}

func (b *backend) send(units []*stored.Unit, mayBeStored bool) (batch.Result, *batch.Failure) {
	mark := b.store.core.Guard.Mark()
	result, err := b.call(appendName, b.params.encode(mark, mayBeStored, b.careful > 0, units))
	if isKnownKey(err) && !mayBeStored && b.careful == 0 {
		b.careful = carefulBatches // so that the function reports which keys are known
		return b.send(units, mayBeStored)
	}
	if err != nil {
		return batch.Result{}, appendFailure(err)
	}
	// The batch is stored. After an error below, the Committer must send it again
	// to learn its outcome.
	verdicts, err := b.verdicts(units, result)
	if err != nil {
		return batch.Result{}, &batch.Failure{Kind: batch.Lost, Reason: reason(err)}
	}
	base := eventstore.Position(binary.BigEndian.Uint64(result.Rows[0][0]))
	return batch.Result{Log: mark.LogID, Base: base, Verdicts: verdicts}, nil
}

var (
	errLocalOnly = errors.New("the server stopped waiting for the synchronous standby: the commit may be on the primary alone")
	errForm      = errors.New("the server's result has an unexpected form: check that the function append of the log's schema is this program's")
	errForgotten = errors.New("a known key was deleted before it was looked up")
)

// verdicts reads the result of the function append.
func (b *backend) verdicts(units []*stored.Unit, result *pgconn.Result) ([]batch.Verdict, error) {
	if b.localOnly {
		return nil, errLocalOnly
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 4 || len(result.Rows[0][0]) != 8 {
		return nil, errForm
	}
	row := result.Rows[0]
	moved, err1 := driver.Ints(row[1])
	actual, err2 := driver.Ints(row[2])
	known, err3 := driver.Ints(row[3])
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	b.careful = max(b.careful-1, 0)
	if len(known) > 0 {
		b.careful = carefulBatches
	}
	verdicts := make([]batch.Verdict, len(units))
	for i, u := range moved {
		v := &verdicts[u-1]
		v.Moved, v.Actual = true, eventstore.Version(actual[i])
	}
	return verdicts, b.find(units, known, verdicts)
}

// keys are the parameters of findSQL.
type keys struct{ types, ids, keys driver.Array }

func newKeys() *keys {
	k := new(keys)
	for _, a := range []*driver.Array{&k.types, &k.ids, &k.keys} {
		a.Reset(pgtype.TextOID)
	}
	return k
}

func (k *keys) add(s eventstore.StreamID, key string) {
	k.types.Text(s.Type)
	k.ids.Text(s.ID)
	k.keys.Text(key)
}

func (k *keys) values() [][]byte { return [][]byte{k.types.Value(), k.ids.Value(), k.keys.Value()} }

// find looks up the keys of the known units, in one call, and adds the results to
// their verdicts. known has numbers of units, which count from 1 and may repeat.
func (b *backend) find(units []*stored.Unit, known []int64, verdicts []batch.Verdict) error {
	if len(known) == 0 {
		return nil
	}
	type place struct{ unit, row int }
	var (
		keys   = newKeys()
		places []place
	)
	for _, number := range known {
		u := int(number - 1)
		if verdicts[u].Found != nil {
			continue
		}
		verdicts[u].Found = make(map[int]batch.Found)
		for i := range units[u].Rows {
			keys.add(units[u].Stream, units[u].Rows[i].Key)
			places = append(places, place{u, i})
		}
	}
	result, err := b.call(findName, keys.values())
	if err != nil {
		return err
	}
	for _, row := range result.Rows {
		f := batch.Found{
			Version:  eventstore.Version(binary.BigEndian.Uint64(row[1])),
			Position: eventstore.Position(binary.BigEndian.Uint64(row[2])),
			At:       stored.FromMicros(driver.Micros(row[4])),
			Meta:     row[5],
			Events:   row[6],
			Answer:   row[7],
		}
		copy(f.Hash[:], row[3])
		at := places[binary.BigEndian.Uint64(row[0])-1]
		verdicts[at.unit].Found[at.row] = f
	}
	for _, number := range known {
		if len(verdicts[number-1].Found) == 0 {
			return errForgotten
		}
	}
	return nil
}

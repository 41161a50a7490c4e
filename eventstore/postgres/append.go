package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

const (
	appendName = "ganglion_append"
	appendSQL  = `select base, moved_unit, moved_version, known_unit from append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
		$11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)`

	// appendSettings are what the function append relies on: plans that are
	// made once, on an empty table, and are right for a full one.
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

// carefulBatches is for how many batches keys are looked up before anything is
// stored, after one that held a known key: clients that resend, as after a
// failover, seldom come alone. See the function append.
const carefulBatches = 100

// noticeEvery is how often the server's warnings are logged.
const noticeEvery = time.Minute

var errNoCancel = errors.New("an append is never cancelled")

// backend is the connection that batches are sent on. One goroutine uses it.
type backend struct {
	store *Store
	conn  *pgx.Conn // nil when there is none
	raw   net.Conn  // the socket under it
	// localOnly is set when the server says that it stopped waiting for the
	// synchronous standby during a call.
	localOnly bool
	// careful is for how many more batches known keys are expected.
	careful int

	noticed  time.Time // when a warning was logged
	unlogged int       // warnings since then

	params  params
	values  [][]byte
	formats []int16
}

// connect opens the connection.
func (b *backend) connect() *batch.Failure {
	limit := b.store.sockets.login.get()
	ctx, cancel := context.WithTimeout(context.Background(), b.store.connectBound(limit))
	defer cancel()
	var (
		config = b.store.connConfig(limit)
		dial   = config.DialFunc
		open   atomic.Bool
	)
	// When a connection breaks, the driver dials another one to ask the
	// server to cancel what was under way. A commit that waits for its
	// synchronous standby would obey, and be lost with the primary.
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if open.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, addr)
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { b.notice(n) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return &batch.Failure{Kind: batch.Down, Reason: reason(err)}
	}
	open.Store(true)
	b.conn, b.raw = conn, socket(conn.PgConn().Conn())
	if err = b.prepare(ctx); err != nil {
		b.drop()
		if errors.Is(err, eventstore.ErrWentBack) {
			return &batch.Failure{Kind: batch.WentBack, Reason: err.Error()}
		}
		if ctx.Err() != nil {
			b.store.sockets.login.ranOut(limit)
		}
		return &batch.Failure{Kind: batch.Down, Reason: reason(err)}
	}
	return nil
}

// notice takes a message that the server sends beside its answers. Only one of
// them means that a commit may be the primary's alone. It is known by the
// function that sends it, since texts are translated. Others are logged, at most
// one in noticeEvery, because some come with every transaction.
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
	b.store.cfg.Logger.Warn("the database server warns", "reason", oneLine(n.Message), "code", n.Code, "unlogged", b.unlogged)
	b.noticed, b.unlogged = time.Now(), 0
}

// socket returns what lies under TLS.
func socket(c net.Conn) net.Conn {
	if secure, ok := c.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return c
}

func (b *backend) prepare(ctx context.Context) error {
	deadline := b.store.cfg.Deadline
	if err := b.store.prepareSession(ctx, b.conn, deadline*3/10, deadline*4/10); err != nil {
		return err
	}
	if _, err := b.conn.Exec(ctx, appendSettings); err != nil {
		return err
	}
	mark := b.store.guard.Mark()
	log, err := look(ctx, b.conn, mark.Newest.Position)
	if err != nil {
		return err
	}
	if !b.store.guard.Compare(mark, log) {
		return b.store.guard.Err()
	}
	for name, sql := range map[string]string{appendName: appendSQL, findName: findSQL} {
		if _, err := b.conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// drop closes the connection, and waits until nothing of it is left.
func (b *backend) drop() {
	if b.conn == nil {
		return
	}
	pg := b.conn.PgConn()
	b.raw.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
	<-pg.CleanupDone()
	b.conn, b.raw = nil, nil
}

// Ready implements batch.Backend.
func (b *backend) Ready() error {
	if b.conn != nil && !alive(b.raw) {
		b.drop()
	}
	if b.conn == nil {
		if failure := b.connect(); failure != nil {
			return failure
		}
	}
	return nil
}

// Append implements batch.Backend.
func (b *backend) Append(units []*stored.Unit, again bool) (batch.Result, error) {
	result, failure := b.send(units, again)
	if failure == nil {
		return result, nil
	}
	switch failure.Kind {
	case batch.Refused, batch.Busy, batch.WentBack:
	default: // lost, or perhaps better off elsewhere: on the new primary
		b.drop()
	}
	if failure.Kind == batch.WentBack {
		failure.Reason = b.store.guard.WentBack().Error()
	}
	return batch.Result{}, failure
}

// call runs a prepared statement whose answer is awaited for half the
// deadline, and then given up together with the connection: without asking
// the server to cancel, which the driver would when a context ends.
func (b *backend) call(name string, values [][]byte, formats []int16) (*pgconn.Result, error) {
	b.localOnly = false
	raw := b.raw
	silence := time.AfterFunc(b.store.cfg.Deadline/2, func() { raw.Close() })
	defer silence.Stop()
	result := b.conn.PgConn().ExecPrepared(context.Background(), name, values, formats, []int16{1}).Read()
	return result, result.Err
}

func (b *backend) send(units []*stored.Unit, again bool) (batch.Result, *batch.Failure) {
	mark := b.store.guard.Mark()
	b.values, b.formats = b.params.encode(b.values[:0], mark, again, b.careful > 0, units), b.formats[:0]
	for range b.values {
		b.formats = append(b.formats, 1)
	}
	answer, err := b.call(appendName, b.values, b.formats)
	if isKnownKey(err) && !again && b.careful == 0 {
		b.careful = carefulBatches // the function then looks which ones
		return b.send(units, again)
	}
	if err != nil {
		return batch.Result{}, appendFailure(err)
	}
	// From here on the batch is stored, so whatever goes wrong leaves it to
	// be found out, by sending it again.
	lost := func(reason string) (batch.Result, *batch.Failure) {
		return batch.Result{}, &batch.Failure{Kind: batch.Lost, Reason: reason}
	}
	if b.localOnly {
		return lost("the server stopped waiting for the synchronous standby: the commit may be the primary's alone")
	}
	if len(answer.Rows) != 1 || len(answer.Rows[0]) != 4 || len(answer.Rows[0][0]) != 8 {
		return lost("the server's answer is of another form")
	}
	row := answer.Rows[0]
	moved, err1 := ints(row[1])
	actual, err2 := ints(row[2])
	known, err3 := ints(row[3])
	if err := errors.Join(err1, err2, err3); err != nil {
		return lost(err.Error())
	}
	result := batch.Result{
		Log:      mark.LogID,
		Base:     eventstore.Position(binary.BigEndian.Uint64(row[0])),
		Verdicts: make([]batch.Verdict, len(units)),
	}
	b.careful = max(b.careful-1, 0)
	if len(known) > 0 {
		b.careful = carefulBatches
	}
	for i, u := range moved {
		v := &result.Verdicts[u-1]
		v.Moved, v.Actual = true, eventstore.Version(actual[i])
	}
	if err := b.find(units, known, result.Verdicts); err != nil {
		return lost(reason(err))
	}
	return result, nil
}

// warm connects, and has the server plan an append, one of known keys (what
// comes in doubt after a failover), and their look-up, by ones that hold nothing.
func (b *backend) warm() error {
	if failure := b.connect(); failure != nil {
		return failure
	}
	for _, again := range []bool{false, true} {
		if _, failure := b.send(nil, again); failure != nil {
			return failure
		}
	}
	none := array{oid: pgtype.TextOID}
	none.reset()
	_, err := b.call(findName, [][]byte{none.value(), none.value(), none.value()}, []int16{1, 1, 1})
	return err
}

// find asks in one call what the log holds under the keys of the known units,
// which are numbers from 1 and may repeat, and writes it into their verdicts.
func (b *backend) find(units []*stored.Unit, known []int64, verdicts []batch.Verdict) error {
	if len(known) == 0 {
		return nil
	}
	type place struct{ unit, row int }
	var (
		types, ids, keys = array{oid: pgtype.TextOID}, array{oid: pgtype.TextOID}, array{oid: pgtype.TextOID}
		places           []place
	)
	for _, a := range []*array{&types, &ids, &keys} {
		a.reset()
	}
	for _, number := range known {
		u := int(number - 1)
		if verdicts[u].Found != nil {
			continue
		}
		verdicts[u].Found = make(map[int]batch.Found)
		for i := range units[u].Rows {
			types.text(units[u].Stream.Type)
			ids.text(units[u].Stream.ID)
			keys.text(units[u].Rows[i].Key)
			places = append(places, place{u, i})
		}
	}
	answer, err := b.call(findName, [][]byte{types.value(), ids.value(), keys.value()}, []int16{1, 1, 1})
	if err != nil {
		return err
	}
	for _, row := range answer.Rows {
		f := batch.Found{
			Version:  eventstore.Version(binary.BigEndian.Uint64(row[1])),
			Position: eventstore.Position(binary.BigEndian.Uint64(row[2])),
			At:       fromTimestamp(row[4]),
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
			return errors.New("a key was forgotten while it was looked up")
		}
	}
	return nil
}

func fromTimestamp(b []byte) time.Time {
	return stored.FromMicros(int64(binary.BigEndian.Uint64(b)) + epoch)
}

// params are the arguments of the function append, in its order.
type params struct {
	log, pos, typ, id, version, key, at, again, careful                     []byte
	uType, uID, uVersion                                                    array
	cUnit, cType, cID, cKey, cHash, cN, cOff, cVersion, cAt, cMeta, cEvents array
	oUnit, oType, oID, oKey, oHash, oVersion, oAt, oAnswer, oKeep           array
}

func (p *params) encode(values [][]byte, mark guard.Mark, again, careful bool, units []*stored.Unit) [][]byte {
	p.log, _ = hex.DecodeString(strings.ReplaceAll(mark.LogID, "-", ""))
	seen := &mark.Newest
	p.pos = binary.BigEndian.AppendUint64(p.pos[:0], uint64(seen.Position))
	p.typ = append(p.typ[:0], seen.Stream.Type...)
	p.id = append(p.id[:0], seen.Stream.ID...)
	p.version = binary.BigEndian.AppendUint64(p.version[:0], uint64(seen.Version))
	p.key = append(p.key[:0], seen.Key...)
	p.at = binary.BigEndian.AppendUint64(p.at[:0], uint64(seen.Micros-epoch))
	p.again = appendBool(p.again[:0], again)
	p.careful = appendBool(p.careful[:0], careful)
	arrays := []struct {
		oid uint32
		a   *array
	}{
		{pgtype.TextOID, &p.uType},
		{pgtype.TextOID, &p.uID},
		{pgtype.Int8OID, &p.uVersion},
		{pgtype.Int4OID, &p.cUnit},
		{pgtype.TextOID, &p.cType},
		{pgtype.TextOID, &p.cID},
		{pgtype.TextOID, &p.cKey},
		{pgtype.ByteaOID, &p.cHash},
		{pgtype.Int4OID, &p.cN},
		{pgtype.Int8OID, &p.cOff},
		{pgtype.Int8OID, &p.cVersion},
		{pgtype.TimestamptzOID, &p.cAt},
		{pgtype.JSONOID, &p.cMeta},
		{pgtype.JSONOID, &p.cEvents},
		{pgtype.Int4OID, &p.oUnit},
		{pgtype.TextOID, &p.oType},
		{pgtype.TextOID, &p.oID},
		{pgtype.TextOID, &p.oKey},
		{pgtype.ByteaOID, &p.oHash},
		{pgtype.Int8OID, &p.oVersion},
		{pgtype.TimestamptzOID, &p.oAt},
		{pgtype.JSONOID, &p.oAnswer},
		{pgtype.BoolOID, &p.oKeep},
	}
	for i := range arrays {
		arrays[i].a.oid = arrays[i].oid
		arrays[i].a.reset()
	}
	var off int64
	for i, u := range units {
		p.uType.text(u.Stream.Type)
		p.uID.text(u.Stream.ID)
		p.uVersion.int8(int64(u.Expected))
		for j := range u.Rows {
			r := &u.Rows[j]
			if r.N > 0 {
				off += int64(r.N)
				p.cUnit.int4(i + 1)
				p.cType.text(u.Stream.Type)
				p.cID.text(u.Stream.ID)
				p.cKey.text(r.Key)
				p.cHash.bytes(r.Hash[:])
				p.cN.int4(r.N)
				p.cOff.int8(off)
				p.cVersion.int8(int64(r.Version))
				p.cAt.time(r.At)
				p.cMeta.bytes(r.Meta)
				p.cEvents.bytes(r.Events)
				continue
			}
			p.oUnit.int4(i + 1)
			p.oType.text(u.Stream.Type)
			p.oID.text(u.Stream.ID)
			p.oKey.text(r.Key)
			p.oHash.bytes(r.Hash[:])
			p.oVersion.int8(int64(r.Version))
			p.oAt.time(r.At)
			p.oAnswer.bytes(r.Answer)
			p.oKeep.bool(r.Keep)
		}
	}
	values = append(values, p.log, p.pos, p.typ, p.id, p.version, p.key, p.at, p.again, p.careful)
	for i := range arrays {
		values = append(values, arrays[i].a.value())
	}
	return values
}

package ganglion

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	// maxRows bounds the rows of a live query, with those of a batch that is not
	// complete. Servers send 1,000 rows at most.
	maxRows = 10_000
	// maxParameterBytes bounds the parameters of a live query, so that its subscribe
	// frame fits into hello.
	maxParameterBytes = 16_000
)

// Snapshot is the result of a live query after a batch of changes.
type Snapshot[R any] struct {
	// Rows are all rows, in the order of the query. Their data may be shared with
	// other snapshots: do not change it.
	Rows []Row[R]
	// Position is the position of the log up to which the rows are current. Once
	// it has reached that of a [Result], the rows show the command's events.
	Position uint64
	// Blocked is the number of rows of the projection that wait for an operator.
	Blocked int
}

// LiveOption is an option of [Query.Live] and [Query.Follow].
type LiveOption interface{ applyLive(*liveQuery) }

// QueryStatus is the state of a live query.
type QueryStatus int

// The statuses of a live query.
const (
	QueryConnecting QueryStatus = iota // has no rows yet, or none that the client may see
	QueryLive                          // the rows are current
	QueryBehind                        // the server can't keep the rows current at the moment
	QueryResuming                      // has rows, and waits for the changes since
	QueryClosed                        // permanently
)

func (s QueryStatus) String() string {
	names := [...]string{"connecting", "live", "behind", "resuming", "closed"}
	if s < 0 || int(s) >= len(names) {
		return "QueryStatus(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// LiveQuery is a query whose result the server keeps current, across reconnects.
// Only one goroutine at a time may call Next or Snapshots; the other methods are
// safe for concurrent use.
type LiveQuery[R any] struct {
	query   *liveQuery
	decoded map[*rowFrame]Row[R] // rows of the newest snapshot
}

func followQuery[R any](c *Client, name string, params any, opts []LiveOption) *LiveQuery[R] {
	data, invalid := parameters(params)
	q := &liveQuery{name: name, data: data, rows: map[string]*rowFrame{}, changed: make(chan struct{})}
	for _, o := range opts {
		o.applyLive(q)
	}
	switch {
	case invalid != nil:
	case !utf8.ValidString(name):
		invalid = &Error{Code: CodeBadRequest, Message: fmt.Sprintf("%q is not UTF-8", name), Retry: RetryNo}
	case len(data) > maxParameterBytes:
		invalid = &Error{
			Code: CodeTooLarge, Field: "data", Retry: RetryNo,
			Message: fmt.Sprintf("the parameters have %d bytes, and a live query accepts at most %d", len(data), maxParameterBytes),
		}
	}
	c.subscribe(&q.subscriber, q, invalid)
	return &LiveQuery[R]{query: q}
}

// live yields the snapshots of a live query and closes it after the loop.
func live[R any](ctx context.Context, c *Client, name string, params any, opts []LiveOption) iter.Seq2[Snapshot[R], error] {
	return func(yield func(Snapshot[R], error) bool) {
		q := followQuery[R](c, name, params, opts)
		defer q.Close()
		for {
			s, err := q.Next(ctx)
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// Next waits for a result that the application has not received, and returns the
// newest. When ctx ends, Next returns its cause and the live query continues. Any
// other error ends the live query, and every later call returns it.
func (l *LiveQuery[R]) Next(ctx context.Context) (Snapshot[R], error) {
	for {
		rows, s, ok, err := l.query.next()
		switch {
		case ok:
			return l.snapshot(rows, s)
		case err != nil:
			return Snapshot[R]{}, err
		}
		select {
		case <-l.query.ready:
		case <-ctx.Done():
			return Snapshot[R]{}, context.Cause(ctx)
		}
	}
}

// snapshot decodes the rows that the previous snapshot did not have.
func (l *LiveQuery[R]) snapshot(rows []*rowFrame, b batch) (Snapshot[R], error) {
	s := Snapshot[R]{Rows: make([]Row[R], len(rows)), Position: b.position, Blocked: b.blocked}
	decoded := make(map[*rowFrame]Row[R], len(rows))
	for i, f := range rows {
		row, ok := l.decoded[f]
		if !ok {
			var err error
			if row, err = rowOf[R](l.query.name, f); err != nil {
				l.query.close(err)
				return Snapshot[R]{}, err
			}
		}
		s.Rows[i], decoded[f] = row, row
	}
	l.decoded = decoded
	return s, nil
}

// Snapshots yields the results of [LiveQuery.Next] until ctx or the live query
// ends. It yields the error last, unless Close ended the live query.
func (l *LiveQuery[R]) Snapshots(ctx context.Context) iter.Seq2[Snapshot[R], error] {
	return func(yield func(Snapshot[R], error) bool) {
		for {
			s, err := l.Next(ctx)
			if err == error(errUnsubscribed) {
				return
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// Status returns the state of the live query.
func (l *LiveQuery[R]) Status() QueryStatus {
	l.query.c.mu.Lock()
	defer l.query.c.mu.Unlock()
	return l.query.status
}

// Statuses yields the current status and then each change, as [Client.Statuses]
// does. It ends after QueryClosed, or when ctx ends.
func (l *LiveQuery[R]) Statuses(ctx context.Context) iter.Seq[QueryStatus] {
	q := l.query
	return func(yield func(QueryStatus) bool) {
		last := QueryStatus(-1)
		for ctx.Err() == nil && last != QueryClosed {
			q.c.mu.Lock()
			now, changed := q.status, q.changed
			q.c.mu.Unlock()
			if now != last {
				if last = now; !yield(now) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// Close ends the live query.
func (l *LiveQuery[R]) Close() { l.query.close(errUnsubscribed) }

// liveQuery is the rows of a live query, with the cursor of the last batch, and
// the batch that is not complete.
type liveQuery struct {
	subscriber
	name    string
	data    []byte
	atLeast uint64

	rows   map[string]*rowFrame // at the cursor; their frames are immutable
	cursor string               // empty without rows
	staged map[string]*rowFrame // rows with the frames of the batch; nil without a batch
	sorted []*rowFrame          // rows by rank; never changed in place
	batch  batch
	isNew  bool // the application has not received sorted

	status  QueryStatus
	changed chan struct{} // closed, and replaced, when status changes
}

// batch describes the newest complete batch.
type batch struct {
	position uint64
	blocked  int
}

func (q *liveQuery) isPaused() bool                 { return false }
func (q *liveQuery) isResuming() bool               { return false } // in another log it gets a reset
func (q *liveQuery) startOver()                     {}
func (q *liveQuery) handleSubscribed(*gatewayFrame) {}
func (q *liveQuery) handleUnsubscribed(string)      {}
func (q *liveQuery) isTransient(*Error) bool        { return false }

func (q *liveQuery) request() subscribeFrame {
	q.staged = nil
	f := subscribeFrame{Query: q.name, Data: q.data}
	if q.cursor != "" {
		f.Cursor = q.cursor
		return f
	}
	f.AtLeast = q.atLeast
	q.staged = map[string]*rowFrame{}
	return f
}

func (q *liveQuery) handle(a *gatewayFrame) {
	switch a.Op {
	case "state":
		for i := range a.Rows {
			q.stage(&a.Rows[i])
		}
	case "update":
		if a.Gone {
			delete(q.begun(), a.Key)
		} else {
			q.stage(&rowFrame{Key: a.Key, Rank: a.Rank, Position: a.Position, Data: a.Data})
		}
	case "keys":
		rows := q.begun()
		keep := make(map[string]bool, len(a.Keys))
		for _, key := range a.Keys {
			keep[key] = true
		}
		for key := range rows {
			if !keep[key] {
				delete(rows, key)
			}
		}
	case "reset":
		q.reset(a.Reason)
	case "live", "synced":
		q.commit(a)
	}
}

// begun returns the rows of the batch, and begins a batch if there is none.
func (q *liveQuery) begun() map[string]*rowFrame {
	if q.staged == nil {
		q.staged = make(map[string]*rowFrame, len(q.rows)+1)
		for key, row := range q.rows {
			q.staged[key] = row
		}
	}
	return q.staged
}

func (q *liveQuery) stage(row *rowFrame) {
	if q.ended {
		return
	}
	rows := q.begun()
	rows[row.Key] = row
	if len(rows) > maxRows {
		q.endForApplication(&Error{Code: CodeProtocol, Retry: RetryNo, Message: fmt.Sprintf("the server sent more than %d rows of query %s", maxRows, q.name)})
	}
}

// reset awaits a new result. The old rows are kept until it is complete, unless
// the client may no longer see them.
func (q *liveQuery) reset(reason string) {
	q.live, q.staged = false, map[string]*rowFrame{}
	if reason == "access" {
		q.cursor, q.rows, q.sorted = "", map[string]*rowFrame{}, nil
		q.deliver()
	}
	q.interrupted()
}

// commit applies a complete batch as a whole.
func (q *liveQuery) commit(a *gatewayFrame) {
	if q.staged != nil {
		q.rows, q.staged = q.staged, nil
		q.sorted = make([]*rowFrame, 0, len(q.rows))
		for _, row := range q.rows {
			q.sorted = append(q.sorted, row)
		}
		slices.SortFunc(q.sorted, func(a, b *rowFrame) int { return cmp.Compare(a.Rank, b.Rank) })
	}
	q.cursor, q.live = a.Cursor, true
	q.batch = batch{a.Position, a.Blocked}
	q.setStatus(QueryLive)
	q.deliver()
}

func (q *liveQuery) deliver() {
	q.isNew = true
	q.signal()
}

// handleHeartbeat keeps the cursor: the one of the last batch has more than a
// heartbeat's position.
func (q *liveQuery) handleHeartbeat(_ string, isBehind bool) {
	switch {
	case isBehind && q.status == QueryLive:
		q.live = false
		q.setStatus(QueryBehind)
	case !isBehind && q.status == QueryBehind:
		q.live = true
		q.setStatus(QueryLive)
	}
}

func (q *liveQuery) interrupted() {
	if q.cursor != "" {
		q.setStatus(QueryResuming)
	} else {
		q.setStatus(QueryConnecting)
	}
}

func (q *liveQuery) finished() {
	q.staged = nil
	q.setStatus(QueryClosed)
}

func (q *liveQuery) setStatus(s QueryStatus) {
	if q.status == s || q.status == QueryClosed {
		return
	}
	q.status = s
	close(q.changed)
	q.changed = make(chan struct{})
}

// next returns the newest rows if the application has not received them, or the
// error that ended the live query, or neither.
func (q *liveQuery) next() (rows []*rowFrame, b batch, ok bool, err error) {
	q.c.mu.Lock()
	defer q.c.unlock()
	if !q.isNew {
		return nil, batch{}, false, q.err
	}
	q.isNew = false
	return q.sorted, q.batch, true, nil
}

// close ends the live query for the application and delivers nothing more.
func (q *liveQuery) close(err error) {
	q.c.mu.Lock()
	defer q.c.unlock()
	q.isNew = false
	q.endForApplication(err)
}

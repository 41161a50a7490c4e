package conversation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// liveQuery is a live query of the script, whose results are read immediately.
type liveQuery struct {
	*ganglion.LiveQuery[json.RawMessage]
	seen chan any
}

// callQuery runs a query or opens a live query.
func (a *application) callQuery(ctx context.Context, as, verb string, raw json.RawMessage) error {
	var o struct {
		Query     string
		Data      json.RawMessage
		AtLeast   uint64 `json:"at_least"`
		TimeoutMS int64  `json:"timeout_ms"`
		After     string
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	query := ganglion.Query[json.RawMessage, json.RawMessage]{Name: o.Query}
	seen := make(chan any, maxSeen)
	if verb == "live" {
		var options []ganglion.LiveOption
		if o.AtLeast != 0 {
			options = append(options, ganglion.AtLeast(o.AtLeast))
		}
		q := &liveQuery{LiveQuery: query.Follow(a.client, o.Data, options...), seen: seen}
		a.queries[as] = q
		a.reading.Go(func() { q.read(ctx) })
		return nil
	}
	var options []ganglion.QueryOption
	if o.AtLeast != 0 {
		options = append(options, ganglion.AtLeast(o.AtLeast))
	}
	if o.TimeoutMS != 0 {
		options = append(options, ganglion.WithTimeout(time.Duration(o.TimeoutMS)*time.Millisecond))
	}
	if o.After != "" {
		options = append(options, ganglion.AfterPage(o.After))
	}
	a.outcomes[as] = seen
	a.reading.Go(func() { p, err := query.Run(ctx, a.client, o.Data, options...); seen <- outcome(p, err) })
	return nil
}

// unsubscribe ends a subscription, a live query or a consumer.
func (a *application) unsubscribe(as string) {
	if q := a.queries[as]; q != nil {
		q.Close()
		return
	}
	if a.consumers[as] != nil {
		a.aborts[as]()
		return
	}
	a.subscriptions[as].Close()
}

func (q *liveQuery) read(ctx context.Context) {
	defer q.Close()
	for {
		s, err := q.Next(ctx)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, ganglion.ErrClosed): // closed by the application
			q.seen <- map[string]any{"end": nil}
			return
		case err != nil:
			q.seen <- map[string]any{"end": describe(err)}
			return
		}
		q.seen <- map[string]any{"rows": rows(s.Rows), "position": float64(s.Position), "blocked": float64(s.Blocked)}
	}
}

func rows(all []ganglion.Row[json.RawMessage]) []any {
	list := make([]any, len(all))
	for i, r := range all {
		list[i] = map[string]any{"key": r.Key, "rank": r.Rank, "position": float64(r.Position), "data": value(r.Data)}
	}
	return list
}

func (a *application) observeQuery(ctx context.Context, as string, body map[string]json.RawMessage) error {
	q := a.queries[as]
	if body["none"] != nil {
		if len(q.seen) > 0 {
			return fmt.Errorf("%s arrived: %v", as, <-q.seen)
		}
		return nil
	}
	if body["status"] != nil {
		for s := range q.Statuses(ctx) {
			if s.String() == text(body["status"]) {
				return nil
			}
		}
		return fmt.Errorf("the status of %s is %v", as, q.Status())
	}
	want := map[string]any{}
	for kind, raw := range body {
		if kind != "query" {
			want[kind] = value(raw)
		}
	}
	select {
	case got := <-q.seen:
		return compare(want, got, as)
	case <-ctx.Done():
		return fmt.Errorf("no result of %s arrives", as)
	}
}

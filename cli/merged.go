package cli

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"sync"

	client "github.com/ganglion-es/ganglion/client/go"
)

type subscription = client.Subscription[json.RawMessage, json.RawMessage]

// merge yields the events of subscriptions: history in the order of the log, and
// then, with follow, new events as they arrive. It leaves out categories that the
// client may not read, unless that leaves none.
func merge(ctx context.Context, subs []*subscription, follow bool, log *slog.Logger) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		live, ok := mergeHistory(ctx, subs, log, yield)
		if ok && follow {
			mergeLive(ctx, live, yield)
		}
	}
}

// mergeHistory yields the events of the history. It returns the subscriptions that
// are now live, and whether the caller wants more.
func mergeHistory(ctx context.Context, subs []*subscription, log *slog.Logger, yield func(line, error) bool) (live []*subscription, ok bool) {
	next := map[*subscription]line{} // the next event of each subscription that is not live
	var forbidden error
	for pending := subs; ; {
		for _, s := range pending {
			item, err := s.Next(ctx)
			switch {
			case err != nil && len(subs) > 1 && errors.Is(err, client.ErrForbidden):
				forbidden = err
				log.Warn("the events of a type are left out", "err", refusal(err))
			case err != nil:
				yield(line{}, err)
				return nil, false
			case item.Kind == client.KindEvent:
				next[s] = lineOf(item.Event)
			default:
				live = append(live, s)
			}
		}
		var first *subscription
		for s, l := range next {
			if first == nil || l.Position < next[first].Position {
				first = s
			}
		}
		if first == nil {
			break
		}
		if !yield(next[first], nil) {
			return nil, false
		}
		delete(next, first)
		pending = []*subscription{first}
	}
	if len(live) == 0 && forbidden != nil {
		yield(line{}, forbidden)
		return nil, false
	}
	return live, true
}

// mergeLive yields new events of all subscriptions as they arrive.
func mergeLive(ctx context.Context, subs []*subscription, yield func(line, error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	type next struct {
		line line
		err  error
	}
	arrived := make(chan next)
	for _, s := range subs {
		reading.Go(func() {
			for item, err := range s.Items(ctx) {
				var n next
				switch {
				case err != nil:
					n.err = err
				case item.Kind == client.KindEvent:
					n.line = lineOf(item.Event)
				default:
					continue
				}
				select {
				case arrived <- n:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	for {
		select {
		case n := <-arrived:
			if !yield(n.line, n.err) {
				return
			}
		case <-ctx.Done():
			yield(line{}, context.Cause(ctx))
			return
		}
	}
}

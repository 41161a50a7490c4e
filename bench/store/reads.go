package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
)

// pageCommits is the page size of a reader that catches up.
const pageCommits = 1000

// catchUp reads the log from its beginning to a position, as a gateway that has
// no events does.
func (l *log) catchUp(ctx context.Context, upTo eventstore.Position) (sample, error) {
	start := time.Now()
	var s sample
	for at := eventstore.Position(0); at < upTo; {
		begun := time.Now()
		page, err := l.nodes[0].Read(ctx, at, pageCommits)
		if err != nil {
			return s, err
		}
		if len(page) == 0 {
			return s, fmt.Errorf("the log ends at position %d, want %d", at, upTo)
		}
		for i := range page {
			s.events += len(page[i].Events)
		}
		at = page[len(page)-1].Position
		s.took = append(s.took, time.Since(begun))
	}
	s.elapsed = time.Since(start)
	return s, nil
}

// counter counts and discards rows.
type counter struct{ rows int }

func (c *counter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			c.rows++
		}
	}
	return len(p), nil
}

// copyOut runs COPY TO of the same rows in order: the most that the server can
// send to one reader. Each row has one event.
func (l *log) copyOut(ctx context.Context, conn *pgx.Conn, upTo eventstore.Position) (sample, error) {
	start := time.Now()
	var out counter
	_, err := conn.PgConn().CopyTo(ctx, &out, fmt.Sprintf(
		`copy (select pos, n, agg_type, agg_id, version, key, at, meta, events from %s.commit where pos <= %d order by pos) to stdout`, l.schema, upTo))
	return sample{events: out.rows, elapsed: time.Since(start)}, err
}

// tailing describes how a reader followed a growing log.
type tailing struct {
	appended, read int
	rate           float64 // appended events per second
	lag            []time.Duration
	empty          int // polls that found no event
}

// tail appends perSecond events per second on one node and reads them on the
// other, which polls every 5 ms. The store itself refuses a page with a hole;
// tail counts the events, so that its caller can check that every acknowledged
// event arrived.
func (l *log) tail(ctx context.Context, perSecond int, d time.Duration) (tailing, error) {
	const callers = 50
	var (
		t       tailing
		run     = runs.Add(1)
		every   = time.Second * callers / time.Duration(perSecond)
		stopped = make(chan struct{})
		reading sync.WaitGroup
		failure error
	)
	start, err := l.nodes[1].Head(ctx)
	if err != nil {
		return t, err
	}
	reading.Go(func() {
		poll := time.NewTicker(5 * time.Millisecond)
		defer poll.Stop()
		for at, last := start, false; ; {
			page, err := l.nodes[1].Read(ctx, at, pageCommits)
			if err != nil {
				failure = err
				return
			}
			now := time.Now()
			for i := range page {
				t.read += len(page[i].Events)
				t.lag = append(t.lag, now.Sub(page[i].At))
			}
			if len(page) > 0 {
				at = page[len(page)-1].Position
				continue
			}
			t.empty++
			if last {
				return
			}
			select {
			case <-poll.C:
			case <-stopped:
				last = true // all events are appended: poll once more
			}
		}
	})
	begun := time.Now()
	s, err := closedLoop(ctx, callers, d, func(ctx context.Context, caller, n int) (int, error) {
		// The clock, not the replies, paces the callers. Each caller has its own
		// offset.
		next := begun.Add(time.Duration(n)*every + every*time.Duration(caller)/callers)
		time.Sleep(time.Until(next))
		_, err := l.nodes[0].Append(ctx, nth(run, caller, n, 1).unit(1))
		return 1, err
	})
	close(stopped)
	reading.Wait()
	if err == nil {
		err = failure
	}
	t.appended, t.rate = s.events, float64(s.events)/s.elapsed.Seconds()
	return t, err
}

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
)

// pageCommits is how much a catching-up reader asks for at once.
const pageCommits = 1000

// catchUp reads the log from its beginning to a position, as a gateway does
// that has missed everything.
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
			return s, fmt.Errorf("the log ends at %d, and %d was expected", at, upTo)
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

// counter counts rows, and throws them away.
type counter struct{ rows int }

func (c *counter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			c.rows++
		}
	}
	return len(p), nil
}

// copyOut is COPY TO of the same rows in order: the most that the server can
// give to one reader. Each row holds one event.
func (l *log) copyOut(ctx context.Context, conn *pgx.Conn, upTo eventstore.Position) (sample, error) {
	start := time.Now()
	var out counter
	_, err := conn.PgConn().CopyTo(ctx, &out, fmt.Sprintf(
		`copy (select pos, n, agg_type, agg_id, version, key, at, meta, events from %s.commit where pos <= %d order by pos) to stdout`, l.schema, upTo))
	return sample{events: out.rows, elapsed: time.Since(start)}, err
}

// tailing is what became of a reader that tails a log while it grows.
type tailing struct {
	appended, read int
	rate           float64 // events/s that were appended
	lag            []time.Duration
	empty          int // polls that found nothing
}

// tail appends so many events a second on one node, and reads them on the
// other, which asks every 5 ms. The store itself refuses a page with a hole;
// what is counted here is whether everything that was acknowledged arrives.
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
				last = true // everything is appended: one more look
			}
		}
	})
	begun := time.Now()
	s, err := closedLoop(ctx, callers, d, func(ctx context.Context, caller, n int) (int, error) {
		// Paced by the clock and not by the answers, and each caller at a
		// moment of his own.
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

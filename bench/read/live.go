package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/ask"
)

const (
	// liveQuestions is the number of different questions on one table.
	liveQuestions = 10_000
	// liveChanges is the number of changed rows per second.
	liveChanges = 200
	// resumeGroups questions have resumeRows rows each; resumeChanged of them change
	// while resumeClients clients of each question are away.
	resumeGroups, resumeRows, resumeChanged, resumeClients = 20, 500, 200, 50
)

// liveBench is the read side with live queries, in this process: the engine
// without sockets.
type liveBench struct {
	*bench
	o       *ours
	queries *engine.Queries
	lots    map[string]int // events of each lot so far
	mu      sync.Mutex
}

// live measures live queries. Processor time is that of this process, with the
// writers and the projection, and of PostgreSQL.
func (b *bench) live(ctx context.Context, w io.Writer, rounds int, d time.Duration) (ratios []report.Ratio, err error) {
	l := &liveBench{bench: b, lots: map[string]int{}}
	if l.o, err = followOffers(ctx, b.store); err != nil {
		return nil, err
	}
	observe := func(batch []eventstore.Commit) { l.o.Observe(batch) }
	b.committed.Store(&observe)
	defer func() { b.committed.Store(nil); err = errors.Join(err, l.o.stop(ctx)) }()
	l.queries = engine.NewQueries(engine.QueriesConfig{
		Catalog: l.o.catalog, Rows: b.store.Rows(), LogID: b.store.LogID, Projections: l.o.Projections, Logger: slog.New(slog.DiscardHandler),
	})
	l.o.announce.Store(l.queries)
	if _, err := l.o.active(ctx); err != nil {
		return nil, err
	}
	for _, measure := range []func(context.Context, io.Writer, int, time.Duration) ([]report.Ratio, error){l.manyQuestions, l.resumed} {
		more, err := measure(ctx, w, rounds, d)
		if err != nil {
			return nil, err
		}
		ratios = append(ratios, more...)
	}
	return ratios, nil
}

// bidOn appends the next event of a lot of a group.
func (l *liveBench) bidOn(ctx context.Context, group, lot int) (eventstore.Position, error) {
	id := fmt.Sprintf("g%05d-%05d", group, lot)
	l.mu.Lock()
	n := l.lots[id]
	l.lots[id]++
	l.mu.Unlock()
	c := command(lot, n)
	c.Key = fmt.Sprintf("%s-%d", id, n)
	a, err := l.store.Append(ctx, eventstore.Unit{
		Stream: eventstore.StreamID{Type: "lot", ID: id}, Expected: eventstore.Version(n), Commands: []eventstore.Command{c},
	})
	if err != nil {
		return 0, err
	}
	return a.Commands[0].Position, nil
}

// each runs do for 0 to n-1 on 64 goroutines.
func each(n int, do func(i int) error) error {
	var all errgroup.Group
	all.SetLimit(64)
	for i := range n {
		all.Go(func() error { return do(i) })
	}
	return all.Wait()
}

// subscriber follows a question and counts what it gets.
type subscriber struct {
	live   ask.Live
	queued atomic.Bool
}

// audience drains its subscribers when they are woken, as a gateway's shard does.
type audience struct {
	woken chan *subscriber
	parts atomic.Int64
}

func (a *audience) follow(ctx context.Context, q *engine.Queries, group int) (*subscriber, error) {
	s := &subscriber{}
	s.queued.Store(true) // until Follow has returned
	live, failure := q.Follow(ctx, offersOf(group, 0), "", func() {
		if s.queued.CompareAndSwap(false, true) {
			a.woken <- s
		}
	})
	if failure != nil {
		return nil, fmt.Errorf("follow: %v", failure)
	}
	s.live = live
	a.woken <- s
	return s, nil
}

func (a *audience) run(ctx context.Context) {
	for {
		select {
		case s := <-a.woken:
			s.queued.Store(false)
			for more := true; more; {
				var parts []ask.Part
				parts, more = s.live.Next(64 << 10)
				a.parts.Add(int64(len(parts)))
			}
		case <-ctx.Done():
			return
		}
	}
}

func offersOf(group int, atLeast eventstore.Position) ask.Question {
	return ask.Question{Query: "offers_of", Data: fmt.Appendf(nil, `{"group":%d}`, group), Client: "ada", AtLeast: atLeast}
}

// processorTime returns that of this process and of PostgreSQL.
func (b *bench) processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano()+u.Stime.Nano()) + b.server.CPU()
}

// manyQuestions compares 10,000 different questions on one table with one.
func (l *liveBench) manyQuestions(ctx context.Context, w io.Writer, rounds int, d time.Duration) ([]report.Ratio, error) {
	if err := each(liveQuestions, func(i int) error { _, err := l.bidOn(ctx, i, 0); return err }); err != nil {
		return nil, err
	}
	type result struct {
		questions int
		seconds   []float64 // of processor time
		parts     []float64
		bytes     []float64 // of memory for each question
	}
	cases := []*result{{questions: 1}, {questions: liveQuestions}}
	run := 0
	err := report.TakeTurns(ctx, cases, rounds, func(c *result, _ int) error {
		before := heap()
		a := &audience{woken: make(chan *subscriber, liveQuestions)}
		draining, end := context.WithCancel(ctx)
		defer end()
		go a.run(draining)
		subscribers := make([]*subscriber, c.questions)
		err := each(c.questions, func(i int) (err error) { subscribers[i], err = a.follow(ctx, l.queries, i); return err })
		defer func() {
			for _, s := range subscribers {
				if s != nil {
					s.live.Close()
				}
			}
		}()
		if err != nil {
			return err
		}
		c.bytes = append(c.bytes, (heap()-before)/float64(c.questions))
		parts, cpu := a.parts.Load(), l.processorTime()
		run++
		_, err = paced(ctx, run, liveChanges, d, func(ctx context.Context, run, caller, n int) (int64, error) {
			p, err := l.bidOn(ctx, (run*7919+caller*997+n*50)%liveQuestions, 0)
			return int64(p), err
		})
		c.seconds = append(c.seconds, (l.processorTime() - cpu).Seconds())
		c.parts = append(c.parts, float64(a.parts.Load()-parts))
		return err
	})
	if err != nil {
		return nil, err
	}
	one, many := cases[0], cases[1]
	fmt.Fprintf(w, "live: %d changed rows/s: processor time with 1 question %.0f %%, with %d questions %.0f %%, which got %.0f parts; memory of a question %.0f bytes\n",
		liveChanges, 100*report.Median(one.seconds)/d.Seconds(), many.questions, 100*report.Median(many.seconds)/d.Seconds(), report.Median(many.parts), report.Median(many.bytes))
	// 200 bytes are the row's key and rank, and the benchmark's own subscriber.
	return []report.Ratio{
		{Name: "live: processor time of 10,000 questions to 1", Values: report.Pairwise(many.seconds, one.seconds, report.Quotient), AtMost: 3},
		{Name: "live: bytes of memory of a question with one row", Values: many.bytes, AtMost: 2048 + 200},
	}, nil
}

// heap returns the bytes of live objects.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// resumed compares resuming live queries with running the queries again.
func (l *liveBench) resumed(ctx context.Context, w io.Writer, rounds int, _ time.Duration) ([]report.Ratio, error) {
	const first = liveQuestions // the groups before have other rows
	bid := func(rows int) (eventstore.Position, error) {
		var last atomic.Uint64
		err := each(resumeGroups*rows, func(i int) error {
			p, err := l.bidOn(ctx, first+i%resumeGroups, i/resumeGroups)
			for old := last.Load(); old < uint64(p) && !last.CompareAndSwap(old, uint64(p)); old = last.Load() {
			}
			return err
		})
		return eventstore.Position(last.Load()), err
	}
	if _, err := bid(resumeRows); err != nil {
		return nil, err
	}
	var resumed, again []float64
	for range rounds {
		cursors, err := l.cursors(ctx)
		if err != nil {
			return nil, err
		}
		p, err := bid(resumeChanged)
		if err != nil {
			return nil, err
		}
		if _, failure := l.queries.Ask(ctx, offersOf(first, p)); failure != nil { // until the rows show p
			return nil, fmt.Errorf("ask: %v", failure)
		}
		cpu := l.processorTime()
		if err := each(resumeGroups*resumeClients, func(i int) error { _, err := l.resume(ctx, first+i%resumeGroups, cursors[i%resumeGroups]); return err }); err != nil {
			return nil, err
		}
		resumed = append(resumed, (l.processorTime() - cpu).Seconds())
		cpu = l.processorTime()
		if err := each(resumeGroups*resumeClients, func(i int) error {
			answer, failure := l.queries.Ask(ctx, offersOf(first+i%resumeGroups, 0))
			if failure != nil || len(answer.Rows) != resumeRows {
				return fmt.Errorf("ask: %d rows, %v", len(answer.Rows), failure)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		again = append(again, (l.processorTime() - cpu).Seconds())
	}
	n := float64(resumeGroups * resumeClients)
	fmt.Fprintf(w, "live: %.0f queries of %d rows, %d changed: %.2f ms of processor time to resume one, %.2f ms to run it again\n",
		n, resumeRows, resumeChanged, 1000*report.Median(resumed)/n, 1000*report.Median(again)/n)
	return []report.Ratio{{Name: "live: processor time to resume to running again", Values: report.Pairwise(resumed, again, report.Quotient), AtMost: 0.5}}, nil
}

// cursors follows each group once, and returns where it can be resumed.
func (l *liveBench) cursors(ctx context.Context) ([]string, error) {
	cursors := make([]string, resumeGroups)
	return cursors, each(resumeGroups, func(i int) (err error) {
		cursors[i], err = l.resume(ctx, liveQuestions+i, "")
		return err
	})
}

// resume follows a group from a cursor, takes all parts up to "live" or
// "synced", when the rows are current, and returns
// the cursor after them.
func (l *liveBench) resume(ctx context.Context, group int, cursor string) (string, error) {
	wake := make(chan struct{}, 1)
	live, failure := l.queries.Follow(ctx, offersOf(group, 0), cursor, func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	if failure != nil {
		return "", fmt.Errorf("resume: %v", failure)
	}
	defer live.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var ops []string
	for isLive := false; ; {
		parts, more := live.Next(64 << 10)
		for _, p := range parts {
			if p.Op == "reset" {
				return "", fmt.Errorf("resume: reset %s", p.Tail)
			}
			isLive = isLive || p.Op == "live" || p.Op == "synced"
			ops = append(ops, p.Op)
		}
		if next, _ := live.Cursor(); isLive && (next != "" || cursor != "") {
			return next, nil
		}
		if more {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return "", fmt.Errorf("resume from %q: it is not live after %v: %w", cursor, ops[max(0, len(ops)-10):], ctx.Err())
		}
	}
}

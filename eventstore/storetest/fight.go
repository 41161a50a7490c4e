package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// fightLimit bounds a fight, so that a call that never returns fails the test.
const fightLimit = 5 * time.Minute

// Fight makes writers append to the same streams through several stores, while a
// tailer reads the log. Each writer has its own, often stale, view of the
// versions. Fight checks that every acknowledged unit is in the log once, that
// the log has no other unit, and that the tailer saw every event once and in
// order. Each writer stores perWriter units.
func Fight(t *testing.T, stores []Store, writers, streams, perWriter int) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), fightLimit, fmt.Errorf("the fight is not over after %v", fightLimit))
	defer cancel()
	f := fight{t: t, ctx: ctx, news: make(chan struct{}, 1), acknowledged: make(map[string]placed)}
	tailing, stopTailing := context.WithCancel(ctx)
	defer stopTailing()
	tailed := make(chan []eventstore.Commit, 1)
	go func() { tailed <- f.tail(tailing, stores[0]) }()
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() { f.write(stores[w%len(stores)], w, streams, perWriter) })
	}
	writing.Wait()
	stopTailing()
	f.check(<-tailed, writers*perWriter*2)
}

type fight struct {
	t    *testing.T
	ctx  context.Context
	news chan struct{} // has a token if there may be commits to tail

	mu           sync.Mutex
	acknowledged map[string]placed // by key
}

type placed struct {
	place  eventstore.Place
	stream eventstore.StreamID
}

// tail reads the log as it grows. After ctx has ended, it reads up to the head
// and returns.
func (f *fight) tail(ctx context.Context, s Store) (seen []eventstore.Commit) {
	var after eventstore.Position
	for {
		ended := ctx.Err() != nil
		page, err := s.Read(f.ctx, after, 100)
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
			f.t.Errorf("tail: %v (%v)", err, context.Cause(f.ctx))
			return seen
		}
		for _, c := range page {
			if c.First() != after+1 {
				f.t.Errorf("tail: position %d follows %d", c.First(), after)
			}
			after = c.Position
		}
		seen = append(seen, page...)
		if len(page) > 0 || err != nil {
			continue
		}
		if ended {
			return seen
		}
		select {
		case <-f.news:
		case <-ctx.Done():
		}
	}
}

// write stores units of two commands. If the outcome of a unit is unknown, it
// appends the unit again with the same keys.
func (f *fight) write(s Store, writer, streams, units int) {
	random := rand.New(rand.NewPCG(uint64(writer), 1))
	versions := make([]eventstore.Version, streams)
	for n := 0; n < units; {
		i := random.IntN(streams)
		key := fmt.Sprintf("w%d-%d", writer, n)
		u := unit(stream(i), versions[i], command(key, 1+random.IntN(2)), command(key+"+", 1))
		a, err := s.Append(f.ctx, u)
		var (
			conflict *eventstore.ConflictError
			known    *eventstore.KnownKeysError
		)
		switch {
		case err == nil:
			versions[i] = f.acknowledge(u, a.Commands[0], a.Commands[1])
			n++
		case errors.As(err, &conflict):
			versions[i] = conflict.Actual
		case errors.As(err, &known) && len(known.Known) == 2:
			// An earlier attempt, whose outcome was unknown, has stored it.
			versions[i] = f.acknowledge(u, known.Known[0].Place, known.Known[1].Place)
			n++
		case errors.Is(err, eventstore.ErrUnknown), errors.Is(err, eventstore.ErrUnavailable):
		default:
			f.t.Errorf("append: %v (%v)", err, context.Cause(f.ctx))
			return
		}
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
}

// acknowledge records the places of a unit's commands, and returns the version of
// its stream.
func (f *fight) acknowledge(u eventstore.Unit, places ...eventstore.Place) eventstore.Version {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, p := range places {
		f.acknowledged[u.Commands[i].Key] = placed{p, u.Stream}
	}
	return places[len(places)-1].Version
}

// check compares the commits of the log with the acknowledged ones.
func (f *fight) check(seen []eventstore.Commit, want int) {
	if len(f.acknowledged) != want || len(seen) != want {
		f.t.Errorf("%d commands were acknowledged and %d seen, want %d", len(f.acknowledged), len(seen), want)
	}
	versions := make(map[eventstore.StreamID]eventstore.Version)
	for _, c := range seen {
		if c.FirstVersion() != versions[c.Stream]+1 {
			f.t.Errorf("version %d of %s follows %d", c.FirstVersion(), c.Stream, versions[c.Stream])
		}
		versions[c.Stream] = c.Version
		a, ok := f.acknowledged[c.Key]
		if !ok {
			f.t.Errorf("the log holds the key %q, which was not acknowledged, or holds it twice", c.Key)
		} else if a.stream != c.Stream || a.place != (eventstore.Place{Version: c.Version, Position: c.Position}) {
			f.t.Errorf("the key %q is in %s at %d/%d, but was acknowledged in %s at %v", c.Key, c.Stream, c.Version, c.Position, a.stream, a.place)
		}
		delete(f.acknowledged, c.Key)
	}
	for key := range f.acknowledged {
		f.t.Errorf("the key %q was acknowledged but is not in the log", key)
	}
}

// Clean fails the test if an audit of the log finds a fault.
func Clean(t *testing.T, s verify.Source) {
	t.Helper()
	report, err := verify.Log(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range report.Faults {
		t.Errorf("verify: %v", fault)
	}
}

func testFight(t *testing.T, log Log) {
	stores := make([]Store, 3)
	for i := range stores {
		stores[i] = open(t, log).Store
	}
	Fight(t, stores, 8, 50, 60)
	Clean(t, stores[0])
}

func testVerify(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(7), 0, eventstore.Command{Key: "kept", At: epoch, Keep: true}))
	all := f.fill()
	report, err := verify.Log(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "report", report, verify.Report{LogID: f.LogID(), Head: 60, Commits: 30, Events: 60, Streams: 6})

	want := func(what string, faults ...verify.Fault) {
		t.Helper()
		report, err := verify.Log(t.Context(), f)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for i := range report.Faults {
			report.Faults[i].Reason = ""
		}
		if !slices.Equal(report.Faults, faults) {
			t.Errorf("%s: found %v, want %v", what, report.Faults, faults)
		}
	}
	a := all[12] // in the middle of its stream
	sql := func(format string, args ...any) { log.Exec(t, fmt.Sprintf(format, args...)) }

	sql(`update "commit" set key = 'kept', agg_id = 'c7' where pos = 1`)
	want("a key that is also among the outcomes", verify.Fault{Check: verify.Keys, Position: 1}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 0)})
	sql(`update "commit" set key = 'k0', agg_id = 'c0' where pos = 1`)
	want("repaired")

	sql(`update "commit" set events = '[{"t":"added","d":1},{"t":"added"}]' where pos = %d`, all[1].Position)
	want("a row that cannot be decoded", verify.Fault{Check: verify.Rows, Position: all[1].Position})
	sql(`update "commit" set events = '[{"t":"added","d":{"by":1}},{"t":"added","d":{"by":2}}]' where pos = %d`, all[1].Position)
	want("repaired again")

	sql(`update "commit" set version = version + 1000 where pos = %d`, a.Position)
	want("a hole in a stream's versions", verify.Fault{Check: verify.Versions, Position: a.Position})
	sql(`update "commit" set version = version - 1000 where pos = %d`, a.Position)

	log.Unconstrain(t)
	b := all[18] // of the same stream
	sql(`update "commit" set version = %d where pos = %d`, a.Version, b.Position)
	want("a version twice", verify.Fault{Check: verify.Versions, Position: b.Position})
	sql(`update "commit" set version = %d, key = '%s' where pos = %d`, b.Version, a.Key, b.Position)
	want("a key twice", verify.Fault{Check: verify.Keys, Position: b.Position})
	sql(`update "commit" set key = '%s' where pos = %d`, b.Key, b.Position)
	want("repaired once more")
	sql(`update "commit" set pos = 4 where pos = 3`)
	want("a position twice, and one missing", verify.Fault{Check: verify.Positions, Position: 2})
	sql(`update "commit" set pos = 3 where pos = 4 and n = 2`)

	sql(`delete from "commit" where pos = %d`, a.Position)
	want("a hole", verify.Fault{Check: verify.Positions, Position: a.First()}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 12)})

	sql(`drop view event`)
	sql(`create view event as select pos, agg_type, agg_id, version, 'x' as type, 1 as form, events as data, key, pos as commit_pos from "commit"`)
	want("a view of other events", verify.Fault{Check: verify.View, Position: 1},
		verify.Fault{Check: verify.Positions, Position: a.First()}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 12)})
}

// nextOf returns the position of the next commit on the stream of commit i.
func nextOf(all []eventstore.Commit, i int) eventstore.Position {
	for _, c := range all[i+1:] {
		if c.Stream == all[i].Stream {
			return c.Position
		}
	}
	return 0
}

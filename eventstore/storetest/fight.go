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

// fightMost bounds a fight: a call that is not answered fails by then.
const fightMost = 5 * time.Minute

// Fight lets writers spread over several stores append to the same streams,
// each with its own, often stale idea of the versions, while a tailer reads
// along. It checks that every unit that was acknowledged is in the log once,
// that nothing else is, and that the tailer saw every event once and in
// order. perWriter is how many units each writer brings in.
func Fight(t *testing.T, stores []Store, writers, streams, perWriter int) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), fightMost, fmt.Errorf("the fight is not over after %v", fightMost))
	defer cancel()
	tailing, stopTailing := context.WithCancel(ctx)
	defer stopTailing()

	type won struct {
		place  eventstore.Place
		stream eventstore.StreamID
	}
	var (
		mu           sync.Mutex
		acknowledged = make(map[string]won) // by key
		writing      sync.WaitGroup
		tailed       = make(chan []eventstore.Commit, 1)
		news         = make(chan struct{}, 1) // there may be something to tail
	)
	go func() {
		var (
			seen  []eventstore.Commit
			after eventstore.Position
		)
		for {
			ended := tailing.Err() != nil
			page, err := stores[0].Read(ctx, after, 100)
			if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
				t.Errorf("tail: %v (%v)", err, context.Cause(ctx))
				break
			}
			for _, c := range page {
				if c.First() != after+1 {
					t.Errorf("tail: position %d follows %d", c.First(), after)
				}
				after = c.Position
			}
			seen = append(seen, page...)
			if len(page) > 0 || err != nil {
				continue
			}
			if ended {
				break
			}
			select {
			case <-news:
			case <-tailing.Done():
			}
		}
		tailed <- seen
	}()

	for w := range writers {
		writing.Go(func() {
			s := stores[w%len(stores)]
			random := rand.New(rand.NewPCG(uint64(w), 1))
			versions := make([]eventstore.Version, streams)
			for n := 0; n < perWriter; {
				i := random.IntN(streams)
				key := fmt.Sprintf("w%d-%d", w, n)
				u := unit(stream(i), versions[i], command(key, 1+random.IntN(2)), command(key+"+", 1))
				a, err := s.Append(ctx, u)
				var (
					conflict *eventstore.ConflictError
					known    *eventstore.KnownKeysError
				)
				switch {
				case err == nil:
					mu.Lock()
					acknowledged[key] = won{a.Commands[0], u.Stream}
					acknowledged[key+"+"] = won{a.Commands[1], u.Stream}
					mu.Unlock()
					versions[i] = a.Commands[1].Version
					n++
				case errors.As(err, &conflict):
					versions[i] = conflict.Actual
				case errors.As(err, &known) && len(known.Known) == 2:
					// An earlier attempt, whose outcome was unknown, had succeeded.
					mu.Lock()
					acknowledged[key] = won{known.Known[0].Place, u.Stream}
					acknowledged[key+"+"] = won{known.Known[1].Place, u.Stream}
					mu.Unlock()
					versions[i] = known.Known[1].Place.Version
					n++
				case errors.Is(err, eventstore.ErrUnknown), errors.Is(err, eventstore.ErrUnavailable):
					// The same key again.
				default:
					t.Errorf("append: %v (%v)", err, context.Cause(ctx))
					return
				}
				select {
				case news <- struct{}{}:
				default:
				}
			}
		})
	}
	writing.Wait()
	stopTailing()
	seen := <-tailed

	if want := writers * perWriter * 2; len(acknowledged) != want || len(seen) != want {
		t.Errorf("%d commands were acknowledged and %d seen, want %d", len(acknowledged), len(seen), want)
	}
	versions := make(map[eventstore.StreamID]eventstore.Version)
	for _, c := range seen {
		if c.FirstVersion() != versions[c.Stream]+1 {
			t.Errorf("version %d of %s follows %d", c.FirstVersion(), c.Stream, versions[c.Stream])
		}
		versions[c.Stream] = c.Version
		a, ok := acknowledged[c.Key]
		if !ok {
			t.Errorf("the log holds the key %q, which nobody was told of, or holds it twice", c.Key)
		} else if a.stream != c.Stream || a.place != (eventstore.Place{Version: c.Version, Position: c.Position}) {
			t.Errorf("the key %q is in %s at %d/%d, and its writer was told %s at %v", c.Key, c.Stream, c.Version, c.Position, a.stream, a.place)
		}
		delete(acknowledged, c.Key)
	}
	for key := range acknowledged {
		t.Errorf("the key %q was acknowledged and is not in the log", key)
	}
	Clean(t, stores[0])
}

// Clean audits a log that is expected to be sound.
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
	a := all[12] // a stream's commit in the middle
	sql := func(format string, args ...any) { log.Exec(t, fmt.Sprintf(format, args...)) }

	sql(`update "commit" set key = 'kept', agg_id = 'c7' where pos = 1`)
	want("a key among the outcomes as well", verify.Fault{Check: verify.Keys, Position: 1}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 0)})
	sql(`update "commit" set key = 'k0', agg_id = 'c0' where pos = 1`)
	want("mended")

	sql(`update "commit" set events = '[{"t":"added","d":1},{"t":"added"}]' where pos = %d`, all[1].Position)
	want("a row that can't be decoded", verify.Fault{Check: verify.Rows, Position: all[1].Position})
	sql(`update "commit" set events = '[{"t":"added","d":{"by":1}},{"t":"added","d":{"by":2}}]' where pos = %d`, all[1].Position)
	want("mended again")

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
	want("mended once more")
	sql(`update "commit" set pos = 4 where pos = 3`)
	want("a position twice, and one missing", verify.Fault{Check: verify.Positions, Position: 2})
	sql(`update "commit" set pos = 3 where pos = 4 and n = 2`)

	sql(`delete from "commit" where pos = %d`, a.Position)
	want("a hole", verify.Fault{Check: verify.Positions, Position: a.First()}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 12)})

	sql(`drop view event`)
	sql(`create view event as select pos, agg_type, agg_id, version, 'x' as type, 1 as form, events as data, key, pos as commit_pos from "commit"`)
	want("a view that shows something else", verify.Fault{Check: verify.View, Position: 1},
		verify.Fault{Check: verify.Positions, Position: a.First()}, verify.Fault{Check: verify.Versions, Position: nextOf(all, 12)})
}

// nextOf returns the position of the commit that follows commit i on its
// stream.
func nextOf(all []eventstore.Commit, i int) eventstore.Position {
	for _, c := range all[i+1:] {
		if c.Stream == all[i].Stream {
			return c.Position
		}
	}
	return 0
}

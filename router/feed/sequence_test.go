package feed

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Runs arrive in any order, repeated, overlapping or not at all. Commits come out
// dense, in order and once. Missing ones are read from the log.
func TestSequenceDeliversDenseInOrderOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			start := eventstore.Position(rng.IntN(100))
			log := history(rng, start, 1+rng.IntN(200))
			head := log[len(log)-1].Position

			// Frames that overlap in every way. Some are repeated, some missing.
			var frames []run
			src := &source{}
			for range 2 + rng.IntN(2) {
				for i := 0; i < len(log); {
					n := min(1+rng.IntN(9), len(log)-i)
					if rng.IntN(5) > 0 {
						frames = append(frames, runOf(src, log[i:i+n]))
					}
					i += n
				}
			}
			// Mostly in order, as on a stream, and sometimes shuffled.
			for i := range frames {
				if j := i + rng.IntN(1+rng.IntN(20)); j < len(frames) {
					frames[i], frames[j] = frames[j], frames[i]
				}
			}

			var q sequence
			q.reset(start)
			w := start
			drain := func() {
				for {
					cs, _, refused, ok := q.next()
					if !ok {
						return
					}
					if refused {
						t.Fatal("a correct frame was refused")
					}
					for _, c := range cs {
						if c.First() != w+1 {
							t.Fatalf("after %d, positions %d to %d were delivered", w, c.First(), c.Position)
						}
						w = c.Position
					}
				}
			}
			for _, f := range frames {
				q.offer(f)
				drain()
				if rng.IntN(10) == 0 { // the log is read
					q.noteQuestion()
					i := slices.IndexFunc(log, func(c eventstore.Commit) bool { return c.Position > w })
					if i >= 0 {
						q.offer(runOf(nil, log[i:min(i+1+rng.IntN(5), len(log))]))
						drain()
					}
				}
				if liars := q.endsAt(head); len(liars) > 0 {
					t.Fatal("an honest source was called a liar")
				}
				q.updateTimes(time.Unix(0, int64(w)))
				if q.w != w {
					t.Fatalf("the watermark is %d, %d was delivered", q.w, w)
				}
				if missing := q.known() > w; missing == q.missing.IsZero() {
					t.Fatalf("known %d, delivered %d, missing since %v", q.known(), w, q.missing)
				}
			}
			if w < head {
				q.noteQuestion()
				i := slices.IndexFunc(log, func(c eventstore.Commit) bool { return c.Position > w })
				q.offer(runOf(nil, log[i:]))
				drain()
			}
			if w != head || len(q.parked) != 0 || q.events != 0 || q.bytes != 0 {
				t.Fatalf("delivered up to %d of %d; %d runs, %d events, %d bytes are left", w, head, len(q.parked), q.events, q.bytes)
			}
		})
	}
}

func TestSequenceParksNoMoreThanItsBounds(t *testing.T) {
	t.Parallel()
	src := &source{}
	var q sequence
	q.reset(10)
	kept, dropped := 0, 0
	for p := eventstore.Position(12); p < 12+2*parkedEvents; p++ {
		if q.offer(runOf(src, []eventstore.Commit{commit(p, 1)})) {
			kept++
		} else {
			dropped++
		}
	}
	if kept != parkedEvents || dropped != parkedEvents || q.events != parkedEvents {
		t.Fatalf("kept %d, dropped %d", kept, dropped)
	}
	if want := eventstore.Position(11 + 2*parkedEvents); q.urgent != want {
		t.Fatalf("the log must be read up to %d, want %d, the end of the dropped runs", q.urgent, want)
	}
	// The run at W+1 always has room, or the sequence would be stuck.
	if !q.offer(runOf(src, []eventstore.Commit{commit(11, 1)})) {
		t.Fatal("the event after the watermark was dropped")
	}

	q.reset(0)
	big := commit(5, 1)
	big.Events[0].Data = make([]byte, parkedBytes)
	if q.offer(runOf(src, []eventstore.Commit{big})) {
		t.Fatal("more bytes than the bound were parked")
	}
}

// Only a question asked after a position was claimed can prove it false. After
// an earlier question, the log may have grown.
func TestSequenceDetectsFalseClaims(t *testing.T) {
	t.Parallel()
	honest, liar := &source{}, &source{}
	var q sequence
	q.reset(100)
	q.noteQuestion()
	q.claim(1<<40, liar)
	q.offer(runOf(liar, []eventstore.Commit{commit(5000, 1)}))
	q.claim(120, honest)
	q.offer(runOf(honest, []eventstore.Commit{commit(110, 2)}))

	if liars := q.endsAt(100); len(liars) != 0 {
		t.Fatal("a claim from after the question was refused by its answer")
	}
	if q.known() != 1<<40 {
		t.Fatalf("known is %d", q.known())
	}
	q.noteQuestion()
	q.claim(130, honest)
	liars := q.endsAt(120)
	if !slices.Equal(liars, []*source{liar, liar}) {
		t.Fatalf("the liars are %v", liars)
	}
	if q.known() != 130 || q.events != 2 || len(q.parked) != 1 {
		t.Fatalf("known is %d, %d events parked", q.known(), q.events)
	}
}

func TestSequenceRefusesRunsThatContradictWatermark(t *testing.T) {
	t.Parallel()
	src := &source{}
	var q sequence
	q.reset(10)
	q.offer(runOf(src, []eventstore.Commit{commit(11, 2)})) // 10 to 11, and W is 10
	if cs, from, refused, ok := q.next(); !ok || !refused || from != src || cs != nil {
		t.Fatalf("got %v, refused %v, ok %v", cs, refused, ok)
	}
	if q.w != 10 {
		t.Fatalf("the watermark moved to %d", q.w)
	}
}

func TestSequenceReportsSinceWhenItIsBehind(t *testing.T) {
	t.Parallel()
	base := time.Unix(1000, 0)
	at := func(ms int) time.Time { return base.Add(time.Duration(ms) * time.Millisecond) }
	src := &source{}
	var q sequence
	q.updateTimes(at(0))
	if !q.behind().IsZero() {
		t.Fatal("behind an empty log")
	}
	// The head grows by 100 each 100 ms, and W follows 6 s later.
	for ms := 0; ms < 10_000; ms += 100 {
		q.claim(eventstore.Position(ms+100), src)
		if w := ms - 5900; w > 0 {
			q.offer(runOf(src, []eventstore.Commit{commit(eventstore.Position(w), w-int(q.w))}))
			q.next()
		}
		q.updateTimes(at(ms))
	}
	if got := at(9900).Sub(q.behind()); got != 5900*time.Millisecond {
		t.Fatalf("behind for %v", got)
	}
	q.noteQuestion()
	q.endsAt(q.w)
	q.updateTimes(at(10_000))
	if !q.behind().IsZero() {
		t.Fatalf("at the head, and behind since %v", q.behind())
	}
	if len(q.heads) > maxHeads {
		t.Fatalf("%d known heads", len(q.heads))
	}
}

package feed

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

func TestFramesAreCutBetweenCommitsAndAtTheirBound(t *testing.T) {
	t.Parallel()
	var batch []eventstore.Commit
	for p := range eventstore.Position(100) {
		c := commit(3*(p+1), 3)
		c.Events[1].Data = make([]byte, 20<<10)
		batch = append(batch, c)
	}
	batch[50].Events[0].Data = make([]byte, frameBytes) // larger than an engine accepts
	next, unpushed := eventstore.Position(1), 0
	for _, f := range frames(batch) {
		if f.from != next {
			t.Fatalf("a frame begins at %d after %d", f.from, next-1)
		}
		next = f.to + 1
		if f.commits == nil {
			unpushed++
		}
		if n := len(f.encoded()); n > frameBytes {
			t.Fatalf("a frame of %d bytes", n)
		}
		if f.bytes > frameBytes || len(f.encoded()) > f.bytes {
			t.Fatalf("a frame of %d bytes was counted as %d", len(f.encoded()), f.bytes)
		}
	}
	if next != 301 || unpushed != 1 {
		t.Fatalf("the frames end at %d, %d commits are too large", next-1, unpushed)
	}
}

func TestFramesAreDenseInside(t *testing.T) {
	t.Parallel()
	batch := []eventstore.Commit{commit(1, 1), commit(3, 2), commit(9, 2), commit(10, 1)}
	fs := frames(batch)
	if len(fs) != 2 || fs[0].to != 3 || fs[1].from != 8 {
		t.Fatalf("%d frames", len(fs))
	}
}

// A subscriber can decode a publisher's frames, including concatenated ones in a
// preencoded message.
func TestFramesRoundTrip(t *testing.T) {
	t.Parallel()
	log := history(rand.New(rand.NewPCG(1, 2)), 7, 50)
	log[2].Meta.Wake = eventstore.Wake{Known: true, Micros: 1_700_000_000_000_001, Revision: -2}
	log[3].Meta.Depth, log[3].Meta.Wake = 7, eventstore.Wake{Known: true}
	log[3].Meta.Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var wire []byte
	for i := 0; i < len(log); i += 10 {
		for _, f := range frames(log[i : i+10]) {
			wire = append(wire, f.encoded()...)
		}
	}
	wire = append(wire, encodeSkip(200, 300)...)
	wire = append(wire, encodeHead(400)...)
	wire = append(wire, encodeBye()...)
	sent, err := preencoded(wire).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var b peer.FeedBatch
	if err := b.UnmarshalVT(sent); err != nil {
		t.Fatal(err)
	}
	if len(b.ProtoReflect().GetUnknown()) > 0 {
		t.Fatal("the receiver sees unknown fields")
	}
	var a arrival
	if err := decode(&b, &a); err != nil {
		t.Fatal(err)
	}
	var got []eventstore.Commit
	for _, r := range a.runs {
		got = append(got, r.commits...)
	}
	if !reflect.DeepEqual(got, log) {
		t.Fatal("the commits differ")
	}
	if a.skip != 300 || a.head != 400 || !a.bye {
		t.Fatalf("skip %d, head %d, bye %v", a.skip, a.head, a.bye)
	}
}

func TestInvalidFramesAreRefused(t *testing.T) {
	t.Parallel()
	good := func() *peer.Commits { return message(frames([]eventstore.Commit{commit(2, 2), commit(5, 3)})[0]) }
	if _, err := decodeCommits(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*peer.Commits){
		"position 0":            func(c *peer.Commits) { c.From = 0 },
		"from behind to":        func(c *peer.Commits) { c.From = 9 },
		"to beyond the events":  func(c *peer.Commits) { c.To = 6 },
		"from before them":      func(c *peer.Commits) { c.From = 2 },
		"a position too high":   func(c *peer.Commits) { c.From, c.To = 1<<60, 1<<60+4 },
		"a span that overflows": func(c *peer.Commits) { c.From, c.To = 1, 1<<64-1 },
		"a hole":                func(c *peer.Commits) { c.Commits[0].Position = 1 },
		"out of order":          func(c *peer.Commits) { c.Commits[0], c.Commits[1] = c.Commits[1], c.Commits[0] },
		"no commits":            func(c *peer.Commits) { c.Commits = nil },
		"an empty commit":       func(c *peer.Commits) { c.Commits[1].Events = nil },
		"a nil commit":          func(c *peer.Commits) { c.Commits[0] = nil },
		"a version too low":     func(c *peer.Commits) { c.Commits[1].Version = 2 },
		"no stream":             func(c *peer.Commits) { c.Commits[0].Id = "" },
		"a stream like a path":  func(c *peer.Commits) { c.Commits[0].Id = ".." },
		"no key":                func(c *peer.Commits) { c.Commits[0].Key = "" },
		"an event without type": func(c *peer.Commits) { c.Commits[0].Events[0].Type = "" },
		"a form too high":       func(c *peer.Commits) { c.Commits[0].Events[0].Form = 1 << 31 },
	} {
		m := good()
		spoil(m)
		if r, err := decodeCommits(m); !errors.Is(err, errRefused) || r.commits != nil {
			t.Errorf("%s: got %v, %v", name, r.commits, err)
		}
	}
	for name, f := range map[string]*peer.FeedFrame{
		"a skip from 0":         {Body: &peer.FeedFrame_Skip{Skip: &peer.Skip{To: 4}}},
		"a skip backwards":      {Body: &peer.FeedFrame_Skip{Skip: &peer.Skip{From: 5, To: 4}}},
		"a skip to the far end": {Body: &peer.FeedFrame_Skip{Skip: &peer.Skip{From: 5, To: 1 << 60}}},
		"no skip at all":        {Body: &peer.FeedFrame_Skip{}},
		"a head too far":        {Body: &peer.FeedFrame_Head{Head: 1 << 48}},
	} {
		var a arrival
		if err := decode(batchOf(f), &a); !errors.Is(err, errRefused) || a.head != 0 || a.skip != 0 {
			t.Errorf("%s: got %+v, %v", name, a, err)
		}
	}
	var a arrival
	if err := decode(&peer.FeedBatch{Frames: []*peer.FeedFrame{nil, {}}}, &a); err != nil {
		t.Errorf("a frame of an unknown kind: %v", err)
	}
}

// A frame of a peer that is accepted is dense, and its delivered commits follow
// the watermark without a hole.
func FuzzFeedBatch(f *testing.F) {
	log := history(rand.New(rand.NewPCG(3, 4)), 40, 20)
	for i := 0; i < len(log); i += 5 {
		f.Add(frames(log[i : i+5])[0].encoded(), uint64(40))
	}
	f.Add(append(encodeSkip(41, 50), encodeHead(60)...), uint64(45))
	f.Add(encodeBye(), uint64(0))
	f.Add(frames(log)[0].encoded()[:100], uint64(40))
	f.Fuzz(func(t *testing.T, wire []byte, start uint64) {
		var b peer.FeedBatch
		if b.UnmarshalVT(wire) != nil {
			return
		}
		w := eventstore.Position(start % (maxPosition + 1))
		var q sequence
		q.reset(w)
		src := &source{}
		a := arrival{src: src}
		if err := decode(&b, &a); err != nil && !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
		for _, r := range a.runs {
			next := r.from
			for _, c := range r.commits {
				if c.First() != next || len(c.Events) == 0 {
					t.Fatalf("%d to %d where %d is next", c.First(), c.Position, next)
				}
				next = c.Position + 1
			}
			if next != r.to+1 || r.to > maxPosition {
				t.Fatalf("the run %d to %d ends at %d", r.from, r.to, next-1)
			}
			r.src = src
			q.offer(r)
		}
		q.claim(max(a.head, a.skip), src)
		for {
			cs, _, refused, ok := q.next()
			if !ok {
				break
			}
			if refused {
				continue
			}
			for _, c := range cs {
				if c.First() != w+1 {
					t.Fatalf("after %d, positions %d to %d were delivered", w, c.First(), c.Position)
				}
				w = c.Position
			}
		}
		q.updateTimes(time.Unix(1, 0))
		if q.events < 0 || q.bytes < 0 || q.known() < q.w {
			t.Fatalf("%d events, %d bytes, known %d", q.events, q.bytes, q.known())
		}
	})
}

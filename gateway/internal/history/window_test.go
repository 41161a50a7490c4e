package history

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestWindowDropsTheOldestPastItsBytes(t *testing.T) {
	t.Parallel()
	event := func(p eventstore.Position, bytes int) *Entry {
		return &Entry{Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Version: eventstore.Version(p), Position: p, Tail: make([]byte, bytes)}
	}
	w := NewWindow(1000, 10*event(1, 808).Size()) // ten events of 1,000 bytes
	for p := range eventstore.Position(25) {
		w.Add(event(p+1, 808))
	}
	if len(w.all) != 10 || w.bytes != 10_000 || w.all[0].Position != 16 {
		t.Errorf("the window has %d events of %d bytes from %d, want 10 of 10000 from 16", len(w.all), w.bytes, w.all[0].Position)
	}
	w.Add(event(26, 20_000)) // the newest stays, however large it is
	if len(w.all) != 1 || w.all[0].Position != 26 {
		t.Errorf("the window has %d events, want the newest alone", len(w.all))
	}
	w.Add(event(27, 808))
	if len(w.all) != 1 || w.all[0].Position != 27 || w.bytes != 1000 {
		t.Errorf("the window has %d events of %d bytes, want the newest alone", len(w.all), w.bytes)
	}
}

// TestExcerptNeverSkipsEvents compares the excerpts of a small window with the
// whole log: After returns all events past a place, or false.
func TestExcerptNeverSkipsEvents(t *testing.T) {
	t.Parallel()
	streams := []eventstore.StreamID{{Type: "auction", ID: "1"}, {Type: "auction", ID: "2"}, {Type: "counter", ID: "1"}}
	w := NewWindow(4, 1<<20)
	var log []*Entry
	versions := map[eventstore.StreamID]eventstore.Version{}
	at := func(t Topic, p eventstore.Position) Place {
		place := Place{At: p}
		for _, e := range log {
			if e.Position <= p && e.Stream == t.Stream {
				place.Version = e.Version
			}
		}
		return place
	}
	for head := eventstore.Position(1); head <= 30; head++ {
		s := streams[int(head*head+head/3)%len(streams)]
		versions[s]++
		e := &Entry{Stream: s, Version: versions[s], Position: head}
		log = append(log, e)
		w.Add(e)
		for _, topic := range []Topic{{Stream: streams[0]}, {Stream: streams[1]}, {Stream: streams[2]}, {Category: "auction"}, {Category: "counter"}, {Category: "none"}, {}} {
			for p := range head + 1 {
				x := w.Excerpt(topic)
				got, covered := x.After(at(topic, p), head)
				var want []*Entry
				for _, e := range log[p:] {
					if e.Stream == topic.Stream || e.Stream.Type == topic.Category || topic == (Topic{}) {
						want = append(want, e)
					}
				}
				if !covered {
					if p+4 >= head {
						t.Errorf("head %d: %v after %d is not covered by a window of 4 events", head, topic, p)
					}
					continue
				}
				if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
					t.Errorf("head %d: %v after %d has %d events, want %d", head, topic, p, len(got), len(want))
				}
			}
		}
	}
}

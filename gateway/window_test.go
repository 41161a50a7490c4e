package gateway

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestWindowHoldsNoMoreThanItsBytes(t *testing.T) {
	t.Parallel()
	event := func(p eventstore.Position, bytes int) *entry {
		return &entry{stream: eventstore.StreamID{Type: "auction", ID: "1"}, version: eventstore.Version(p), position: p, tail: make([]byte, bytes)}
	}
	w := newWindow(1000, 10*event(1, 832).size()) // ten events of 1,000 bytes
	for p := range eventstore.Position(25) {
		w.add(event(p+1, 832))
	}
	if len(w.all) != 10 || w.bytes != 10_000 || w.all[0].position != 16 {
		t.Errorf("the window has %d events of %d bytes from %d on, want 10 of 10000 from 16 on", len(w.all), w.bytes, w.all[0].position)
	}
	w.add(event(26, 20_000)) // the newest stays, however large it is
	if len(w.all) != 1 || w.all[0].position != 26 {
		t.Errorf("the window has %d events, want the newest alone", len(w.all))
	}
	w.add(event(27, 832))
	if len(w.all) != 1 || w.all[0].position != 27 || w.bytes != 1000 {
		t.Errorf("the window has %d events of %d bytes, want the newest alone", len(w.all), w.bytes)
	}
}

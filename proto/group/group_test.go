package group_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Positions are stored by segment: another segment for a stream would lose events.
func TestSegmentOfStreamNeverChanges(t *testing.T) {
	t.Parallel()
	for stream, want := range map[eventstore.StreamID]int{
		{Type: "auction", ID: "42"}: 1, {Type: "auction", ID: "43"}: 14, {Type: "client", ID: "42"}: 5, {Type: "client", ID: "ä"}: 12,
	} {
		if got := group.SegmentOf(stream, 16); got != want {
			t.Errorf("segment of %s is %d, want %d", stream, got, want)
		}
		if got := group.SegmentOf(stream, 1); got != 0 {
			t.Errorf("segment of %s is %d of 1", stream, got)
		}
	}
}

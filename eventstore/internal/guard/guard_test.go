package guard

import (
	"errors"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func wantLost(t *testing.T, what string, err error, lost bool) {
	t.Helper()
	if errors.Is(err, eventstore.ErrWentBack) != lost {
		t.Errorf("%s: got %v, want lost: %v", what, err, lost)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	g := New(Log{ID: "one", Head: 5, HeadKey: "e"})
	wantLost(t, "a commit that is older", g.Saw(3, "c"), false)
	wantLost(t, "the newest again", g.Saw(5, "e"), false)
	wantLost(t, "a newer one", g.Saw(7, "g"), false)
	m := g.Mark()
	if m != (Mark{"one", 7, "g"}) {
		t.Fatalf("the mark is %v", m)
	}
	if !g.Compare(m, Log{ID: "one", Found: true, Key: "g", Head: 9}) {
		t.Error("a log that holds the mark was taken for lost")
	}
	if g.Compare(m, Log{ID: "one", Head: 5}) {
		t.Error("a log without the mark was taken for sound")
	}
	wantLost(t, "once it went back", g.Saw(8, "h"), true)
	wantLost(t, "without a new incarnation", g.Settle(m, Log{ID: "one", Head: 5}), true)
	wantLost(t, "the events are back", g.Settle(m, Log{ID: "one", Found: true, Key: "g", Head: 7}), false)

	// A loss that nobody was told of is told before it is forgiven.
	g.Compare(m, Log{ID: "two", Head: 5, HeadKey: "e"})
	wantLost(t, "the first to ask", g.Settle(m, Log{ID: "two", Head: 5, HeadKey: "e"}), true)
	wantLost(t, "the second", g.Settle(m, Log{ID: "two", Head: 5, HeadKey: "e"}), false)
	if got := g.Mark(); got != (Mark{"two", 5, "e"}) {
		t.Errorf("the mark is %v", got)
	}
	// What a slow connection says of the former incarnation is old news.
	if !g.Compare(m, Log{ID: "one", Head: 3}) {
		t.Error("old news was taken for a loss")
	}
	if g.Witness(5, "other") {
		t.Error("another commit in the mark's place was believed")
	}
	wantLost(t, "the log still holds its own", g.Settle(g.Mark(), Log{ID: "two", Found: true, Key: "e", Head: 5}), true)
}

package guard

import (
	"errors"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func wantLost(t *testing.T, what string, err error, lost bool) {
	t.Helper()
	if errors.Is(err, eventstore.ErrWentBack) != lost {
		t.Errorf("%s: got %v, want lost: %v", what, err, lost)
	}
}

func commit(p eventstore.Position, key string) Commit {
	return Commit{Position: p, Stream: eventstore.StreamID{Type: "counter", ID: "a"}, Version: eventstore.Version(p), Key: key, Micros: int64(p)}
}

func TestGuardReportsLossUntilResume(t *testing.T) {
	t.Parallel()
	g := New(Log{ID: "one", Head: commit(5, "e")})
	wantLost(t, "an older commit", g.Saw("one", commit(3, "c")), false)
	wantLost(t, "the newest again", g.Saw("one", commit(5, "e")), false)
	wantLost(t, "a newer one", g.Saw("one", commit(7, "g")), false)
	m := g.Mark()
	if m != (Mark{"one", commit(7, "g")}) {
		t.Fatalf("the mark is %v", m)
	}
	if !g.Compare(m, Log{ID: "one", AtMark: commit(7, "g"), Head: commit(9, "i")}) {
		t.Error("a log with the mark counts as lost")
	}
	if g.Compare(m, Log{ID: "one", Head: commit(5, "e")}) {
		t.Error("a log without the mark counts as sound")
	}
	wantLost(t, "after it went back", g.Saw("one", commit(8, "h")), true)
	wantLost(t, "without a new incarnation", g.Resume(m, Log{ID: "one", Head: commit(5, "e")}), true)
	wantLost(t, "the events are back", g.Resume(m, Log{ID: "one", AtMark: commit(7, "g"), Head: commit(7, "g")}), false)

	// A loss lasts until Resume, even after an operator has accepted it.
	g.Compare(m, Log{ID: "two", Head: commit(5, "e")})
	if g.Compare(m, Log{ID: "two", Head: commit(5, "e")}) {
		t.Error("a new incarnation was accepted without Resume")
	}
	wantLost(t, "until Resume", g.Err(), true)
	wantLost(t, "Resume", g.Resume(m, Log{ID: "two", Head: commit(5, "e")}), false)
	wantLost(t, "Resume of a sound log", g.Resume(g.Mark(), Log{ID: "two", AtMark: commit(5, "e"), Head: commit(6, "f")}), false)
	// Late news of the lost incarnation has no effect.
	wantLost(t, "a commit of the lost history", g.Saw("one", commit(5, "lost")), false)
	if !g.Witness("one", commit(9, "lost")) {
		t.Error("a witness of the lost history counts as a loss")
	}
	if got := g.Mark(); got != (Mark{"two", commit(5, "e")}) {
		t.Errorf("the mark is %v", got)
	}
	// A slow connection may report the former incarnation.
	if !g.Compare(m, Log{ID: "one", Head: commit(3, "c")}) {
		t.Error("the former incarnation counts as a loss")
	}
	if g.Witness("two", commit(5, "other")) {
		t.Error("another commit at the mark was accepted")
	}
	wantLost(t, "the log still has its own commit", g.Resume(g.Mark(), Log{ID: "two", AtMark: commit(5, "e"), Head: commit(5, "e")}), true)
}

// TestGuardComparesStreamVersionAndTime replaces the commit at the mark with
// others that have the same position and key.
func TestGuardComparesStreamVersionAndTime(t *testing.T) {
	t.Parallel()
	own := commit(5, "open")
	for what, change := range map[string]func(*Commit){
		"another stream":  func(c *Commit) { c.Stream.ID = "b" },
		"another type":    func(c *Commit) { c.Stream.Type = "auction" },
		"another version": func(c *Commit) { c.Version++ },
		"another time":    func(c *Commit) { c.Micros++ },
	} {
		other := own
		change(&other)
		fresh := func() *Guard { return New(Log{ID: "one", Head: own}) }
		g := fresh()
		wantLost(t, what+": Saw", g.Saw("one", other), true)
		if g := fresh(); g.Witness("one", other) {
			t.Errorf("%s: Witness accepts it", what)
		}
		if g := fresh(); g.Compare(g.Mark(), Log{ID: "one", AtMark: other, Head: other}) {
			t.Errorf("%s: Compare accepts it", what)
		}
	}
}

func TestWitnessOfLaterCommitRaisesMark(t *testing.T) {
	t.Parallel()
	g := New(Log{ID: "one", Head: commit(5, "e")})
	for _, c := range []Commit{commit(3, "c"), commit(5, "e"), commit(8, "h")} {
		if !g.Witness("one", c) {
			t.Errorf("a witness of %v counts as a loss", c)
		}
	}
	m := g.Mark()
	if m.Newest != commit(8, "h") {
		t.Errorf("the mark is %v, want the last witnessed commit", m)
	}
	if g.Compare(m, Log{ID: "one", Head: commit(7, "g")}) {
		t.Error("a log without the witnessed commit counts as sound")
	}
}

func TestResumeDetectsUnnoticedLoss(t *testing.T) {
	t.Parallel()
	lost := Log{ID: "one", AtMark: commit(5, "other"), Head: commit(6, "f")}
	g := New(Log{ID: "one", Head: commit(5, "e")})
	wantLost(t, "Resume of a log without the mark", g.Resume(g.Mark(), lost), true)
	wantLost(t, "after that", g.Err(), true)

	g = New(Log{ID: "two", Head: commit(5, "e")})
	old := Mark{"one", commit(9, "i")}
	wantLost(t, "Resume with a mark of the former incarnation", g.Resume(old, lost), false)
}

// TestResumeNeedsCurrentMark resumes a log that had the mark when the
// database was asked; another node has seen a newer commit since.
func TestResumeNeedsCurrentMark(t *testing.T) {
	t.Parallel()
	g := New(Log{ID: "one", Head: commit(5, "e")})
	asked := g.Mark()
	g.Witness("one", commit(7, "g"))
	wantLost(t, "WentBack", g.WentBack(), true)
	wantLost(t, "Resume with an older mark", g.Resume(asked, Log{ID: "one", AtMark: commit(5, "e"), Head: commit(5, "e")}), true)
	wantLost(t, "a new incarnation", g.Resume(asked, Log{ID: "two", Head: commit(5, "e")}), false)
}

func TestCheckStatesTheLoss(t *testing.T) {
	t.Parallel()
	g := New(Log{ID: "one", Head: commit(7, "g")})
	if err := g.Check(g.Mark(), Log{ID: "one", AtMark: commit(7, "g"), Head: commit(9, "i")}); err != nil {
		t.Errorf("a log with the mark: %v", err)
	}
	err := g.Check(g.Mark(), Log{ID: "one", Head: commit(5, "e")})
	wantLost(t, "a log that ends earlier", err, true)
	var loss *eventstore.WentBackError
	if !errors.As(err, &loss) || loss.Seen != 7 || loss.Head != 5 || loss.SeenAt.UnixMicro() != 7 || loss.HeadAt.UnixMicro() != 5 || !strings.Contains(err.Error(), "2 positions are gone") {
		t.Errorf("a log that ends earlier: %#v, %v", loss, err)
	}
	err = g.Check(g.Mark(), Log{ID: "one", AtMark: commit(7, "other"), Head: commit(8, "h")})
	wantLost(t, "a log with another event", err, true)
	if !strings.Contains(err.Error(), "position 7, which this node has seen, has another event now; the log ends at 8") {
		t.Errorf("a log with another event: %v", err)
	}
}

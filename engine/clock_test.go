package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
)

func fixedClock(at time.Time) func() time.Time { return func() time.Time { return at } }

func TestTimeNeverRunsBackwardsInAStream(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	noon := time.Date(2030, 1, 1, 12, 0, 0, 1500, time.FixedZone("x", 3600))
	ahead := start(t, Config{Store: log, Now: fixedClock(noon)})
	granted(t, do(t, ahead, cmd("a", "1", "put", m{"by": 1})), 1)
	behind := start(t, Config{Store: log, Now: fixedClock(noon.Add(-time.Minute))})
	granted(t, do(t, behind, cmd("a", "2", "put", m{"by": 1})), 2)
	for _, c := range assertLog(t, log) {
		if want := noon.UTC().Truncate(time.Microsecond); c.At != want {
			t.Errorf("version %d is stored at %v, want %v", c.Version, c.At, want)
		}
	}
	if s := behind.Stats(); s.Ahead != 0 {
		t.Errorf("a difference of a minute counts as a wrong clock %d times", s.Ahead)
	}
}

// A node whose clock is a year ahead stores an event. On other nodes the aggregate's time
// must not stand still, even after a load from a snapshot. The log must name the aggregate.
func TestWrongClockDoesNotFreezeAnAggregate(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		noon := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
		wrong := start(t, Config{Store: log(nil), Now: fixedClock(noon.AddDate(1, 0, 0))})
		granted(t, do(t, wrong, cmd("a", "1", "repeat", m{"times": 9})), 9)
		var out logged
		store := log(nil)
		right := start(t, Config{Store: store, Now: fixedClock(noon), Logger: out.logger()})
		granted(t, do(t, right, cmd("a", "2", "put", m{"by": 1})), 10) // makes a snapshot
		waitStats(t, right, func(s Stats) bool { return s.Snapshots == 1 })
		later := start(t, Config{Store: log(nil), Now: fixedClock(noon.Add(time.Second))})
		granted(t, do(t, later, cmd("a", "3", "put", m{"by": 1})), 11)
		if s := later.Stats(); s.SnapshotsUsed != 1 || s.Ahead != 0 {
			t.Errorf("%d snapshots used, %d decisions despite a wrong clock", s.SnapshotsUsed, s.Ahead)
		}
		commits := assertLog(t, store)
		for i, want := range []time.Time{noon, noon.Add(time.Second)} {
			if got := commits[i+1].At; !got.Equal(want) {
				t.Errorf("command %d is decided at %v, want %v", i+2, got, want)
			}
		}
		if s := right.Stats(); s.Ahead != 1 {
			t.Errorf("%d decisions despite a wrong clock, want 1", s.Ahead)
		}
		if text := out.String(); strings.Count(text, "ahead of this node's clock") != 1 || !strings.Contains(text, "stream=box/a") {
			t.Errorf("the log says %s", text)
		}
		get(t, right, command.Get{Stream: box("a")})
	})
}

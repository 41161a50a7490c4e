package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

const every = 10 * time.Minute

// ticking has the schedules "once" and "each", which write their planned times into
// notes of their names.
func ticking() *aggregate.Catalog {
	c := notesCatalog(func(e noteWritten, n *noteRow) { *n = noteRow(e) })
	for name, missed := range map[string]process.Missed{"once": process.Once, "each": process.Each} {
		process.Define(c, process.Every{
			Name: name, Interval: every, Missed: missed,
			Run: func(_ process.At, planned time.Time) process.Commands {
				return process.Commands{process.Send("note", name, writeNote{Text: planned.Format(time.RFC3339)})}
			},
		})
	}
	return c
}

// TestScheduleAfterAStopOfAnHour starts nodes on a log in which both schedules ran an
// hour ago for the last time. One runs for the last of the missed times, the other for
// each of them.
func TestScheduleAfterAStopOfAnHour(t *testing.T) {
	t.Parallel()
	url := database(t)
	log, err := node.OpenStore(t.Context(), node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	last := time.Now().UTC().Add(-time.Hour).Truncate(every)
	for _, name := range []string{"once", "each"} {
		_, err := log.Append(t.Context(), eventstore.Unit{
			Stream: eventstore.StreamID{Type: name, ID: process.TickSequence},
			Commands: []eventstore.Command{{
				Key: "~" + name + ":t:" + last.Format(time.RFC3339Nano), At: last, Meta: eventstore.Meta{Client: "~" + name},
				Events: []eventstore.Event{{Type: "ticked", Data: fmt.Appendf(nil, `{"schedule":%q,"at":%q}`, name, last.Format(time.RFC3339))}},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	startTrioOf(t, url, programAt(t, "ticking"))

	// The times that were missed when a schedule ran, which is the date of its first note.
	missed := func(at time.Time) (list []string) {
		for planned := last.Add(every); !planned.After(at); planned = planned.Add(every) {
			list = append(list, planned.Format(time.RFC3339))
		}
		return list
	}
	written := func(id string) (texts []string, first time.Time) {
		commits, err := log.ReadStream(t.Context(), eventstore.StreamID{Type: "note", ID: id}, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range commits {
			var e noteWritten
			if err := json.Unmarshal(c.Events[0].Data, &e); err != nil {
				t.Fatal(err)
			}
			if texts = append(texts, e.Text); i == 0 {
				first = c.At
			}
		}
		return texts, first
	}
	harness.Eventually(t, "the schedules have run", func() error {
		each, first := written("each")
		once, _ := written("once")
		if len(once) == 0 || len(each) == 0 || len(each) < len(missed(first)) {
			return fmt.Errorf("they ran for %v and %v", once, each)
		}
		return nil
	})
	each, first := written("each")
	if want := missed(first); !slices.Equal(each[:len(want)], want) || len(want) < 6 {
		t.Errorf("each ran for %v, want %v", each, want)
	}
	once, first := written("once")
	lastOf := func(list []string) string { return list[len(list)-1] }
	// Another time may have come between the decision and the note.
	if want := missed(first); once[0] != lastOf(want) && once[0] != lastOf(missed(first.Add(-time.Minute))) {
		t.Errorf("once ran for %v, want the last of %v", once, want)
	}
}

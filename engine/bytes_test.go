package engine

import (
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Note cuts its text after three bytes, which may split a character. JSON does not
// preserve half a character.
type Note struct {
	Text  string
	Bytes int
}

type (
	take struct {
		Text string `json:"text"`
	}
	taken struct {
		Text string `json:"text"`
	}
)

func (c take) Decide(_ aggregate.Call, n Note) (aggregate.Decision[Note], error) {
	if n.Bytes > 3 {
		return nil, aggregate.Reject("full", "the note is full")
	}
	return aggregate.Emit[Note](taken{Text: c.Text[:3]})
}

func (e taken) Apply(n *Note) { n.Bytes += len(e.Text); n.Text = e.Text }

func notes(change func(*aggregate.Type[Note])) *aggregate.Catalog {
	var c aggregate.Catalog
	t := aggregate.Type[Note]{
		Name:     "note",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Note]{"jot": take{}},
		Events:   aggregate.Events[Note]{"jotted": taken{}},
		View:     func(n Note) any { return n.Bytes },
	}
	if change != nil {
		change(&t)
	}
	aggregate.Define(&c, t)
	return &c
}

func noted(id, key, text string) command.Command {
	c := cmd(id, key, "jot", m{"text": text})
	c.Stream.Type = "note"
	return c
}

// The event's JSON differs from the event that Decide returned. The owner must show, and
// decide by, the event that every other node decodes.
func TestOwnerAppliesTheBytesThatOthersRead(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		owner := start(t, Config{Store: log(nil), Catalog: notes(nil)})
		granted(t, do(t, owner, noted("a", "1", "日本")), 1)
		granted(t, do(t, owner, noted("b", "1", "a日")), 1) // "a" and two thirds of a character
		for _, id := range []string{"a", "b"} {
			strong := command.Get{Stream: eventstore.StreamID{Type: "note", ID: id}, Strong: true}
			other := start(t, Config{Store: log(nil), Catalog: notes(nil)})
			mine, err := owner.Get(t.Context(), strong)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := other.Get(t.Context(), strong)
			if err != nil {
				t.Fatal(err)
			}
			if mine.Version != theirs.Version || string(mine.Data) != string(theirs.Data) {
				t.Errorf("%s: the owner shows %s at version %d, another node %s at %d", id, mine.Data, mine.Version, theirs.Data, theirs.Version)
			}
		}
		failed(t, do(t, owner, noted("b", "2", "abc")), command.CodeRejected, command.RetryNo)
	})
}

// Apply puts invalid text into the state. No node may start from its JSON.
func TestStateThatJSONCannotPreserveHasNoSnapshot(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text      string
		snapshots uint64
	}{
		"whole": {"日本", 1}, "broken": {"\uFFFD日", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out logged
			log := newMemlog()
			h := start(t, Config{Store: log, Logger: out.logger(), Catalog: notes(func(n *aggregate.Type[Note]) {
				n.SnapshotEvery = 1
				n.Events = aggregate.Events[Note]{"jotted": taken{}, "halved": halved{}}
				n.Commands = aggregate.Commands[Note]{"jot": halve{}}
			})})
			c := noted("a", "1", test.text)
			granted(t, do(t, h, c), 1)
			waitIdle(t, h)
			waitStats(t, h, func(s Stats) bool { return s.Snapshots == test.snapshots })
			if warned := strings.Contains(out.String(), "cannot make a snapshot"); warned != (test.snapshots == 0) {
				t.Errorf("the log says %q", out.String())
			}
		})
	}
}

type (
	halve struct {
		Text string `json:"text"`
	}
	halved struct {
		Text string `json:"text"`
	}
)

func (c halve) Decide(aggregate.Call, Note) (aggregate.Decision[Note], error) {
	return aggregate.Emit[Note](halved(c))
}

// Apply keeps three bytes of a text, but only two of one that begins with the
// replacement character.
func (e halved) Apply(n *Note) {
	n.Text = e.Text[:3]
	if strings.HasPrefix(e.Text, "\uFFFD") {
		n.Text = e.Text[:2]
	}
}

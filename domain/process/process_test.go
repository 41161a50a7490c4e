package process_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
)

// Books that are lent, and letters to the readers, are the domain of these tests.
type (
	book struct{}
	lend struct {
		To    string    `json:"to"`
		Until time.Time `json:"until"`
	}
	lent struct {
		To    string    `json:"to"`
		Until time.Time `json:"until"`
	}
	returned struct{}

	letters struct{}
	write   struct {
		Text string `json:"text"`
	}
	written struct {
		Text string `json:"text"`
	}

	loan struct {
		To      string    `json:"to"`
		Remind  time.Time `json:"remind,omitzero"`
		Refused int       `json:"refused"`
		Back    bool      `json:"back"`
	}
)

var errNoText = aggregate.Reject("no_text", "a letter has a text")

func (c lend) Decide(aggregate.Call, book) (aggregate.Decision[book], error) {
	return aggregate.Emit[book](lent(c))
}
func (lent) Apply(*book)     {}
func (returned) Apply(*book) {}

func (c write) Decide(aggregate.Call, letters) (aggregate.Decision[letters], error) {
	if c.Text == "" {
		return nil, errNoText
	}
	return aggregate.Emit[letters](written(c))
}
func (written) Apply(*letters) {}

func library(types ...string) *aggregate.Catalog {
	c := new(aggregate.Catalog)
	access := aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone}
	for _, name := range append(types, "book") {
		aggregate.Define(c, aggregate.Type[book]{
			Name: name, Access: access,
			Commands: aggregate.Commands[book]{"lend": lend{}},
			Events:   aggregate.Events[book]{"lent": lent{}, "returned": returned{}},
		})
	}
	aggregate.Define(c, aggregate.Type[letters]{
		Name: "letters", Access: access,
		Commands:   aggregate.Commands[letters]{"write": write{}},
		Events:     aggregate.Events[letters]{"written": written{}},
		Rejections: aggregate.Rejections{errNoText},
	})
	return c
}

const week = 7 * 24 * time.Hour

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// loans writes to the reader of a book, and reminds it every week.
func loans() process.Type[loan] {
	return process.Type[loan]{
		Name: "loans",
		On: process.Handlers[loan]{
			process.On(func(_ process.At, e lent, s *loan) process.Commands {
				*s = loan{To: e.To, Remind: e.Until}
				return process.Commands{process.Send("letters", e.To, write{Text: "enjoy"})}
			}),
			process.On(func(_ process.At, _ returned, s *loan) process.Commands { s.Back = true; return nil }),
		},
		Wake: func(s loan) time.Time { return s.Remind },
		Woken: func(_ process.At, s *loan) process.Commands {
			s.Remind = s.Remind.Add(week)
			return process.Commands{process.Send("letters", s.To, write{Text: "bring it back"})}
		},
		Rejected: func(_ process.At, r process.Rejection, s *loan) process.Commands {
			s.Refused++
			return process.Commands{process.Send("letters", "staff", write{Text: r.Type + "/" + r.ID + " " + r.Command + " " + r.Code + " " + r.Reason})}
		},
		Done: func(s loan) bool { return s.Back },
	}
}

func defined(t *testing.T, c *aggregate.Catalog, p process.Declaration) *process.Definition {
	t.Helper()
	d := process.Define(c, p)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return d
}

// A follower folds events into the states of a process manager, as the engine does.
type follower struct {
	t        *testing.T
	d        *process.Definition
	c        *aggregate.Catalog
	position uint64
	states   map[string]json.RawMessage
}

func follow(t *testing.T, c *aggregate.Catalog, p process.Declaration) *follower {
	return &follower{t: t, c: c, d: defined(t, c, p), states: map[string]json.RawMessage{}}
}

// event folds a registered event, and returns the commands as text.
func (f *follower) event(stream string, event any) (sent []string, err error) {
	f.t.Helper()
	typ, _, _ := strings.Cut(stream, "/")
	def, ok := f.c.Type(typ)
	if !ok {
		f.t.Fatalf("no type %s", typ)
	}
	name, form, data, err := def.EncodeEvent(event)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.stored(stream, name, form, data)
}

func (f *follower) stored(stream, name string, form int, data json.RawMessage) (sent []string, err error) {
	f.t.Helper()
	typ, id, _ := strings.Cut(stream, "/")
	event := aggregate.EventName{Type: typ, Event: name}
	if !f.d.Reads(event) {
		return nil, nil
	}
	f.position++
	at := process.At{Type: typ, ID: id, Position: f.position, Time: noon}
	value, err := f.d.Decode(event, form, data)
	if err != nil {
		f.t.Fatal(err)
	}
	effects, err := f.d.Effects(at, event, value)
	for k, e := range effects {
		state := f.d.NewState()
		if raw, ok := f.states[e.Sequence]; ok {
			if state, err = f.d.DecodeState(raw); err != nil {
				f.t.Fatal(err)
			}
		}
		commands, err := f.d.Handle(at, e, value, state)
		if err != nil {
			return sent, err
		}
		for n, c := range commands {
			sent = append(sent, fmt.Sprintf("%s %s %s %s", f.d.CommandKey(at.Position, k, n), c.Target(), c.Name, c.Data))
		}
		delete(f.states, e.Sequence)
		if !f.d.Finished(state) {
			if f.states[e.Sequence], err = f.d.EncodeState(state); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	return sent, err
}

// record executes a built-in command and folds its event.
func (f *follower) record(r process.Record, err error) (sent []string, _ error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	def, _ := f.c.Type(f.d.Name())
	command, err := def.DecodeCommand(r.Command, r.Data)
	if err != nil {
		f.t.Fatal(err)
	}
	events, err := def.Decide(aggregate.Call{}, def.NewState(), command)
	if err != nil || len(events) != 1 {
		f.t.Fatalf("%s decided %v, %v", r.Command, events, err)
	}
	return f.event(f.d.Name()+"/"+r.Sequence, events[0])
}

func (f *follower) want(sent []string, err error, want ...string) {
	f.t.Helper()
	if err != nil || !slices.Equal(sent, want) {
		f.t.Fatalf("sent %q, %v; want %q", sent, err, want)
	}
}

func (f *follower) due(sequence string) time.Time {
	f.t.Helper()
	state, err := f.d.DecodeState(f.states[sequence])
	if err != nil {
		f.t.Fatal(err)
	}
	due, err := f.d.Due(state)
	if err != nil {
		f.t.Fatal(err)
	}
	return due
}

func TestProcessFoldsEventsIntoStateAndCommands(t *testing.T) {
	t.Parallel()
	f := follow(t, library(), loans())
	sent, err := f.event("book/emma", lent{To: "ada", Until: noon})
	f.want(sent, err, `~loans:1.0:0 letters/ada write {"text":"enjoy"}`)
	if got := string(f.states["emma"]); got != `{"to":"ada","remind":"2026-05-01T12:00:00Z","refused":0,"back":false}` {
		t.Errorf("state %s", got)
	}
	sent, err = f.event("book/emma", returned{})
	f.want(sent, err)
	if len(f.states) != 0 {
		t.Errorf("the finished state is kept: %s", f.states)
	}
}

func TestWokenRunsOnlyForTheTimeThatTheStateWants(t *testing.T) {
	t.Parallel()
	f := follow(t, library(), loans())
	if _, err := f.event("book/emma", lent{To: "ada", Until: noon.Add(time.Nanosecond)}); err != nil {
		t.Fatal(err)
	}
	if !f.due("emma").Equal(noon) {
		t.Fatalf("due %s: want microseconds", f.due("emma"))
	}
	sent, err := f.record(f.d.RecordWoken("emma", 1, noon))
	f.want(sent, err, `~loans:2.0:0 letters/ada write {"text":"bring it back"}`)
	// The same time again, as after a crash between the record and its fold.
	sent, err = f.record(f.d.RecordWoken("emma", 1, noon))
	f.want(sent, err)
	if !f.due("emma").Equal(noon.Add(week)) {
		t.Errorf("due %s", f.due("emma"))
	}
	// A time for a sequence that is gone leaves no state.
	sent, err = f.record(f.d.RecordWoken("gone", 1, noon))
	f.want(sent, err)
	if _, ok := f.states["gone"]; ok {
		t.Error("a late time made a state")
	}
}

func TestWokenThatDoesNotMoveItsTimeFails(t *testing.T) {
	t.Parallel()
	p := loans()
	p.Woken = func(process.At, *loan) process.Commands { return nil }
	f := follow(t, library(), p)
	if _, err := f.event("book/emma", lent{To: "ada", Until: noon}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.record(f.d.RecordWoken("emma", 1, noon)); err == nil || !strings.Contains(err.Error(), "must change the state") {
		t.Errorf("got %v", err)
	}
}

func TestRejectionReachesItsHandler(t *testing.T) {
	t.Parallel()
	f := follow(t, library(), loans())
	if _, err := f.event("book/emma", lent{To: "ada", Until: noon}); err != nil {
		t.Fatal(err)
	}
	r := process.Rejection{Position: 1, Type: "letters", ID: "ada", Command: "write", Code: "rejected", Reason: "no_text", Message: strings.Repeat("ö", 1000)}
	sent, err := f.record(f.d.RecordRejected("emma", 0, 0, r))
	f.want(sent, err, `~loans:2.0:0 letters/staff write {"text":"letters/ada write rejected no_text"}`)
	if got := string(f.states["emma"]); !strings.Contains(got, `"refused":1`) {
		t.Errorf("state %s", got)
	}
}

func TestKeysNameTheirCause(t *testing.T) {
	t.Parallel()
	f := follow(t, library(), loans())
	woken, _ := f.d.RecordWoken("emma", 7, noon)
	refused, _ := f.d.RecordRejected("emma", 2, 3, process.Rejection{Position: 7})
	ticked, _ := f.d.RecordTicked(noon)
	for key, want := range map[string]string{
		f.d.CommandKey(7, 2, 3): "~loans:7.2:3",
		woken.Key:               "~loans:w:7",
		refused.Key:             "~loans:r:7.2:3",
		ticked.Key:              "~loans:t:2026-05-01T12:00:00Z",
		f.d.Client():            "~loans",
	} {
		if key != want {
			t.Errorf("got %q, want %q", key, want)
		}
	}
	if c, ok := process.ParseCommandKey("~loans:7.2:3"); !ok || c != (process.Cause{Process: "loans", Position: 7, K: 2, N: 3}) {
		t.Errorf("parsed %+v, %t", c, ok)
	}
	for _, key := range []string{"", "~", "loans:7.2:3", "~loans:7.2", "~loans:w:7", "~loans:r:7.2:3", "~loans:t:2026-05-01T12:00:00Z", "~loans:07.2:3", "~loans:7.2:+3", "~loans:7.-2:3", "~wake:7"} {
		if c, ok := process.ParseCommandKey(key); ok {
			t.Errorf("%q is read as %+v", key, c)
		}
	}
	longest := process.Define(new(aggregate.Catalog), process.Every{Name: strings.Repeat("n", process.MaxNameBytes)})
	if key := longest.CommandKey(1<<64-1, process.MaxSequences-1, process.MaxCommands-1); len(key) > 64 {
		t.Errorf("%q has %d bytes", key, len(key))
	}
	if r, _ := longest.RecordRejected("s", process.MaxSequences-1, process.MaxCommands-1, process.Rejection{Position: 1<<64 - 1}); len(r.Key) > 64 {
		t.Errorf("%q has %d bytes", r.Key, len(r.Key))
	}
}

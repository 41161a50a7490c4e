package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// foldAll folds the stream without the console: element n is what clients see at
// version n.
func (s *site) foldAll(id eventstore.StreamID) []string {
	s.t.Helper()
	state, _ := sums{}.Start(id.Type)
	views := []string{`{"total":0,"secret":"state"}`}
	for {
		commits, err := s.store.ReadStream(s.t.Context(), id, eventstore.Version(len(views)-1), 1000)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(commits) == 0 {
			return views
		}
		for _, c := range commits {
			for _, e := range c.Events {
				if err := state.Apply(e); err != nil {
					s.t.Fatal(err)
				}
				view, _ := state.View()
				views = append(views, string(view))
			}
		}
	}
}

func TestStateAtEachVersionEqualsIndependentFold(t *testing.T) {
	for _, canKeep := range []bool{false, true} {
		s := newSite(t, sums{canKeep})
		for i := range 60 {
			s.append("sum/1", "ada", "", added(i), added(-2*i), added(7))
		}
		want := s.foldAll(eventstore.StreamID{Type: "sum", ID: "1"})
		check := func(after, limit int) {
			t.Helper()
			p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", query("after", after, "limit", limit))
			if p.Error != "" || p.Owner != "n2" || p.Head != 180 || after <= 180 && p.Before != want[after] || len(p.List) != min(limit, 180-min(after, 180)) || p.Past != (after+limit < 180) {
				t.Errorf("after %d: %+v", after, p)
			}
			for i, one := range p.List {
				if v := after + 1 + i; one.Version != uint64(v) || one.Position != uint64(v) || one.Error != "" || one.State != want[v] {
					t.Errorf("version %d is %+v, want %s", v, one, want[v])
				}
			}
		}
		for _, after := range []int{150, 0, 50, 100, 1, 2, 179, 180, 181, 51} { // out of order, so that kept states of other versions exist
			check(after, 50)
			check(after, 1)
		}
		p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", query("limit", 50))
		if p.After != 150 || len(p.List) != 30 {
			t.Errorf("the newest page has %d events after %d", len(p.List), p.After)
		}
		if has := len(s.kept.list) > 0; has != canKeep {
			t.Errorf("%d states are kept", len(s.kept.list))
		}
	}
}

func TestUnusedStreamHasNoEvents(t *testing.T) {
	s := newSite(t, sums{})
	p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", nil)
	if p.Head != 0 || p.Past || len(p.List) > 0 || p.Error != "" {
		t.Errorf("%+v", p)
	}
}

func TestEventThatCannotBeAppliedIsShownWithItsError(t *testing.T) {
	for name, want := range map[string]string{"boom": "the application panicked: boom", "unknown": "unknown event", "added": "cannot unmarshal"} {
		s := newSite(t, sums{true})
		s.append("sum/1", "ada", "", added(1))
		s.append("sum/1", "ada", "", eventstore.Event{Type: name, Data: []byte(`{"by":"x"}`)})
		s.append("sum/1", "ada", "", added(1))
		p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", query("after", 0))
		if len(p.List) != 3 || p.List[0].State == "" || p.Error != "" {
			t.Fatalf("%s: %+v", name, p)
		}
		for _, one := range p.List[1:] {
			if one.State != "" || !strings.Contains(one.Error, "at version 2 cannot be applied") || !strings.Contains(one.Error, want) || one.Data == nil {
				t.Errorf("%s: %+v", name, one)
			}
		}
		p, _ = get[streamPage](s, Reader, "/api/streams/sum/1", query("after", 2))
		if len(p.List) != 1 || p.List[0].State != "" || !strings.Contains(p.Error, want) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	s := newSite(t, sums{})
	s.append("other/1", "ada", "", added(1))
	p, _ := get[streamPage](s, Reader, "/api/streams/other/1", nil)
	if len(p.List) != 1 || p.Error != `no type "other"` || p.List[0].State != "" {
		t.Errorf("%+v", p)
	}
}

// TestStatesOfLongStreamsAreMadeWhenAskedFor has more events than are folded without
// a request for it.
func TestStatesOfLongStreamsAreMadeWhenAskedFor(t *testing.T) {
	s := newSite(t, sums{true})
	many := make([]eventstore.Event, 1000)
	for i := range many {
		many[i] = added(1)
	}
	for range foldEvents/1000 + 2 {
		s.append("sum/1", "ada", "", many...)
	}
	const after = foldEvents + 1500
	read := func(q ...any) streamPage {
		t.Helper()
		p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", query(append(q, "after", after, "limit", 200)...))
		return p
	}
	if p := read(); len(p.List) != 200 || p.Folded == nil || *p.Folded != 0 || p.List[0].State != "" {
		t.Errorf("a state is made without being asked for: %+v", p)
	}
	id, at := eventstore.StreamID{Type: "sum", ID: "1"}, eventstore.Version(foldEvents+500)
	commits, err := s.store.ReadStream(t.Context(), id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var last eventstore.Commit
	for _, c := range commits {
		if c.Version >= at {
			last = c
			break
		}
	}
	if p := read("fold", "yes"); p.Folded != nil || len(p.List) != 200 || p.List[199].State != fmt.Sprintf(`{"total":%d,"secret":"state"}`, after+200) {
		t.Errorf("%+v", p)
	}
	if p := read(); p.Folded != nil || p.List[0].State == "" {
		t.Error("the state is not kept")
	}
	s.kept.forget()
	// The snapshot is newer than the first event of the page.
	if err := s.store.SaveSnapshot(t.Context(), eventstore.Snapshot{
		Stream: id, Version: last.Version, Position: last.Position, At: last.At, Fingerprint: "f1", State: json.RawMessage(fmt.Sprintf(`{"total":%d}`, last.Version)),
	}); err != nil {
		t.Fatal(err)
	}
	p, _ := get[streamPage](s, Reader, "/api/streams/sum/1", query("after", last.Version-100, "limit", 200))
	if p.Folded != nil || len(p.List) != 200 || p.List[98].State != "" {
		t.Fatalf("%+v", p)
	}
	for _, one := range p.List[99:] {
		if want := fmt.Sprintf(`{"total":%d,"secret":"state"}`, one.Version); one.State != want {
			t.Fatalf("version %d has %s, want %s", one.Version, one.State, want)
		}
	}
}

func TestStatesOfAPageAreBounded(t *testing.T) {
	s := newSite(t, padded{})
	for range 50 {
		s.append("sum/1", "ada", "", added(1))
	}
	p, body := get[streamPage](s, Reader, "/api/streams/sum/1", query("after", 0))
	if len(body) > stateBytes+(1<<20) || len(p.List) != 50 || p.List[0].State == "" || p.List[49].State != "" || p.List[49].Error != "" {
		t.Errorf("%d bytes: %.200s", len(body), body)
	}
	if p, _ = get[streamPage](s, Reader, "/api/streams/sum/1", query("after", 49, "limit", 1)); p.List[0].State == "" {
		t.Error("the state is missing from the answer of its event alone")
	}
}

// padded is an application with long states.
type padded struct{ sums }

type paddedSum struct{ Fold }

func (p padded) Start(typ string) (Fold, error) {
	f, err := p.sums.Start(typ)
	return paddedSum{f}, err
}

func (paddedSum) View() (json.RawMessage, error) {
	return json.RawMessage(`"` + strings.Repeat("x", 190<<10) + `"`), nil
}

func TestKeptStatesAreBounded(t *testing.T) {
	var k keeper
	defer func() { k.clear.Stop() }()
	id := eventstore.StreamID{Type: "sum", ID: "1"}
	for v := range uint64(200) {
		k.add("log", id, v+1, make(json.RawMessage, 1<<20))
	}
	if k.bytes > keptBytes || len(k.list) > keptStates {
		t.Errorf("%d states with %d bytes are kept", len(k.list), k.bytes)
	}
	if _, v := k.find("log", id, 190); v != 190 {
		t.Errorf("the newest state up to version 190 is that of version %d", v)
	}
	if state, _ := k.find("another", id, 190); state != nil {
		t.Error("a state of another log is used")
	}
	k.add("log", id, 500, make(json.RawMessage, keptBytes+1))
	if k.bytes > keptBytes {
		t.Errorf("%d bytes are kept", k.bytes)
	}
	k.clear.Reset(time.Hour)
}

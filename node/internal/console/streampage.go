package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// foldEvents is the number of events that are read and folded to answer a request,
	// before the events that it shows. foldMore is the same for a request for states
	// that need more.
	foldEvents, foldMore = 20_000, 200_000
	// foldCommits is the number of commits of one read; a read has about 1 MiB.
	foldCommits = 1000
	// listCommits is the number of commits of one read of events that are shown. A
	// commit can have many events.
	listCommits = 25
	// stateBytes bounds the states in an answer of more than one event, in all. Further
	// states are left out.
	stateBytes = 2 << 20
)

// Fold is a state of an aggregate, with the application's code. Its methods may panic.
type Fold interface {
	// Apply makes the next event part of the state. After an error, the state is
	// undefined.
	Apply(eventstore.Event) error
	// View returns what clients see of the state.
	View() (json.RawMessage, error)
	// Keep returns the state in a form that Folds.Restore accepts, or nil if states of
	// the type have none.
	Keep() (json.RawMessage, error)
}

// Folds makes states of aggregates. Its methods may panic.
type Folds interface {
	// Start returns the state without events.
	Start(typ string) (Fold, error)
	// Restore returns a state that Keep has returned, or the state of a snapshot.
	Restore(typ string, kept json.RawMessage) (Fold, error)
	// Fingerprint selects snapshots in the log, "" for none.
	Fingerprint(typ string) string
}

// versionOf is an event of a stream with the state after it.
type versionOf struct {
	event
	// State is what clients see after the event, as the text of JSON. It is missing for
	// users without the role reader, if Error says why, and if the answer has too many
	// bytes: a page then asks for this event alone.
	State string `json:"state,omitempty"`
	Error string `json:"error,omitempty"`
}

// streamPage is an answer of serveStream.
type streamPage struct {
	Log   string      `json:"log"`
	Owner string      `json:"owner,omitempty"`
	Head  uint64      `json:"head"`  // version of the newest event
	After uint64      `json:"after"` // version before the first event
	Past  bool        `json:"past"`  // more events follow
	List  []versionOf `json:"events"`
	// Before is the state before the first event.
	Before string `json:"before,omitempty"`
	// Folded is the version up to which the state is made, if that is less than After,
	// since making it needs more events than one request may read. A request with fold
	// continues there.
	Folded *uint64 `json:"folded,omitempty"`
	// Error is why there are no states.
	Error string `json:"error,omitempty"`
}

// serveStream answers with events of a stream after a version, or the last ones, with
// the state after each.
func (c *Console) serveStream(w http.ResponseWriter, r *http.Request, user User) {
	id := eventstore.StreamID{Type: r.PathValue("type"), ID: r.PathValue("id")}
	q := r.URL.Query()
	after, isGiven, err := number(q, "after")
	limit, limitErr := limitOf(q)
	if bad := firstOf(id.Validate(), err, limitErr); bad != nil {
		refuse(w, http.StatusBadRequest, bad.Error())
		return
	}
	head, err := c.streamHead(r.Context(), id)
	if err != nil {
		c.refuseRead(w, r, err)
		return
	}
	if !isGiven && head.Version > 0 { // the last page of pages with limit events
		after = uint64(head.Version-1) / uint64(limit) * uint64(limit)
	}
	p := streamPage{Log: c.cfg.Log.LogID(), Owner: c.cfg.Owner(id), Head: uint64(head.Version), After: after, List: []versionOf{}}
	f := folding{console: c, id: id, log: p.Log}
	if user.Role.includes(Reader) {
		most := uint64(foldEvents)
		if q.Get("fold") != "" {
			most = foldMore
		}
		if err = f.reach(r.Context(), after, after+uint64(limit), most); err == nil {
			f.describe(&p)
		}
	}
	if err == nil {
		err = f.list(r.Context(), &p, user.Role, limit)
	}
	if err != nil {
		c.refuseRead(w, r, err)
		return
	}
	f.keep()
	answer(w, p)
}

func (c *Console) streamHead(ctx context.Context, id eventstore.StreamID) (eventstore.Head, error) {
	done, err := c.reader.turn(ctx)
	if err != nil {
		return eventstore.Head{}, err
	}
	defer done()
	return c.cfg.Log.StreamHead(ctx, id)
}

// folding makes the states of one stream for one request.
type folding struct {
	console *Console
	id      eventstore.StreamID
	log     string

	state   Fold   // nil if there is none
	version uint64 // of state
	failure error  // of the application: why there is no state
}

// load reads a page of the stream.
func (f *folding) load(ctx context.Context, fingerprint string, after uint64, limit int) (eventstore.Loaded, error) {
	done, err := f.console.reader.turn(ctx)
	if err != nil {
		return eventstore.Loaded{}, err
	}
	defer done()
	return f.console.cfg.Log.Load(ctx, eventstore.LoadRequest{
		Stream: f.id, Fingerprint: fingerprint, After: eventstore.Version(after), Limit: limit,
	})
}

// reach makes the state at a version. It begins with the newest earlier state that is
// kept, with the snapshot, or without events, and folds at most the given number of
// events. If these do not suffice and the snapshot is at or before the version last, it
// takes that. It keeps the state that it has reached.
func (f *folding) reach(ctx context.Context, version, last, most uint64) error {
	folds := f.console.cfg.Folds
	f.begin(0, func() (Fold, error) { return folds.Start(f.id.Type) })
	if f.failure != nil {
		return nil
	}
	if kept, at := f.console.kept.find(f.log, f.id, version); kept != nil {
		f.begin(at, func() (Fold, error) { return folds.Restore(f.id.Type, kept) })
	}
	fingerprint := folds.Fingerprint(f.id.Type)
	if fingerprint != "" && f.version < version {
		if err := f.takeSnapshot(ctx, fingerprint, version, last, most); err != nil {
			return err
		}
	}
	switch missing := version - min(version, f.version); {
	case missing > foldMore && fingerprint == "":
		f.state, f.failure = nil, fmt.Errorf("its state needs %d events, and the console folds at most %d for a type without snapshots", missing, foldMore)
		return nil
	case missing > most && most < foldMore:
		return nil // the events would be folded in vain
	}
	target := min(version, f.version+most)
	for f.version < target && f.failure == nil {
		loaded, err := f.load(ctx, "", f.version, foldCommits)
		if err != nil {
			return err
		}
		if len(loaded.Commits) == 0 {
			break
		}
		for i := range loaded.Commits {
			for j := range loaded.Commits[i].Events {
				if v := uint64(loaded.Commits[i].FirstVersion()) + uint64(j); v == f.version+1 && v <= target {
					f.apply(loaded.Commits[i].Events[j])
				}
			}
		}
	}
	f.keep()
	return nil
}

// takeSnapshot takes the state of the snapshot if it is the newest one up to a version.
// If that version cannot be reached, it takes one up to the version last.
func (f *folding) takeSnapshot(ctx context.Context, fingerprint string, version, last, most uint64) error {
	loaded, err := f.load(ctx, fingerprint, version, 1)
	if err != nil || loaded.Snapshot == nil {
		return err
	}
	at := uint64(loaded.Snapshot.Version)
	if at <= f.version || at > last || at > version && version-f.version <= most {
		return nil
	}
	earlier := *f
	f.begin(at, func() (Fold, error) { return f.console.cfg.Folds.Restore(f.id.Type, loaded.Snapshot.State) })
	if f.failure != nil { // as the engine does with a snapshot that it cannot read
		*f = earlier
	}
	return nil
}

// begin takes another state.
func (f *folding) begin(version uint64, make func() (Fold, error)) {
	f.failure = guard(func() (err error) { f.state, err = make(); return err })
	f.version = version
	if f.failure != nil {
		f.state = nil
	}
}

// apply makes the next event part of the state.
func (f *folding) apply(e eventstore.Event) {
	if f.state == nil {
		return
	}
	if err := guard(func() error { return f.state.Apply(e) }); err != nil {
		f.state, f.failure = nil, fmt.Errorf("the event %s at version %d cannot be applied: %w", e.Type, f.version+1, err)
		return
	}
	f.version++
}

// view returns what clients see of the state.
func (f *folding) view() (view json.RawMessage, err error) {
	if f.state == nil {
		return nil, f.failure
	}
	err = guard(func() (err error) { view, err = f.state.View(); return err })
	return view, err
}

// keep keeps the state for later requests.
func (f *folding) keep() {
	if f.state == nil || f.version == 0 {
		return
	}
	var kept json.RawMessage
	if err := guard(func() (err error) { kept, err = f.state.Keep(); return err }); err == nil && kept != nil {
		f.console.kept.add(f.log, f.id, f.version, kept)
	}
}

// describe says which states a page has.
func (f *folding) describe(p *streamPage) {
	switch {
	case f.failure != nil:
		p.Error = f.failure.Error()
	case f.version < p.After && f.version < p.Head:
		folded := f.version
		p.Folded, f.state = &folded, nil
	case f.version == p.After:
		view, _ := f.view() // without it, no difference is shown
		p.Before = string(view)
	}
}

// list adds the events to a page, and the states after them.
func (f *folding) list(ctx context.Context, p *streamPage, role Role, limit int) error {
	states := 0
	for next := p.After; len(p.List) < limit; {
		loaded, err := f.load(ctx, "", next, min(limit-len(p.List), listCommits))
		if err != nil {
			return err
		}
		for i := range loaded.Commits {
			commit := &loaded.Commits[i]
			for j := range commit.Events {
				one := versionOf{event: show(commit, j, role, limit == 1)}
				if one.Version <= next || len(p.List) == limit {
					continue
				}
				next = one.Version
				f.addState(p, &one, commit.Events[j], &states, limit)
				p.List = append(p.List, one)
			}
		}
		if len(loaded.Commits) == 0 || !loaded.More && len(p.List) < limit {
			break
		}
	}
	if n := uint64(len(p.List)); n > 0 {
		p.Head = max(p.Head, p.After+n) // events may have arrived since
		p.Past = p.Head > p.After+n
	}
	return nil
}

// addState applies an event, and adds the state after it.
func (f *folding) addState(p *streamPage, one *versionOf, e eventstore.Event, bytes *int, limit int) {
	switch {
	case f.state == nil && f.failure == nil, p.Error != "", one.Version < f.version: // before the snapshot that it begins with
		return
	case one.Version > f.version:
		f.apply(e)
	}
	if limit > 1 && *bytes > stateBytes && f.failure == nil {
		return
	}
	view, err := f.view()
	if err != nil {
		one.Error = err.Error()
	}
	one.State = string(view)
	*bytes += len(view)
}

// guard calls application code. A panic becomes an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the application panicked: %v", p)
		}
	}()
	return f()
}

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// memlog is an eventstore.Store in memory, for tests that need faults and delays. Tests
// without faults run on it and on the real stores.
type memlog struct {
	// before is called before an append; an error refuses the unit. after is
	// called after it; an error hides that the unit was stored. Either may
	// block, and blocks only its own append. Set them before use.
	before, after func(eventstore.Unit) error
	// reading is called before each ReadStream; an error refuses it.
	reading func(eventstore.StreamID) error
	// saving is called before each SaveSnapshot.
	saving func()

	mu        sync.Mutex
	commits   []eventstore.Commit
	streams   map[eventstore.StreamID][]int // indexes into commits
	keys      map[keyOf]known
	snapshots map[snapshotOf]eventstore.Snapshot
	listeners []eventstore.Committed
	appends   int
	reads     int
	heads     int
}

type snapshotOf struct {
	stream      eventstore.StreamID
	fingerprint string
}

type keyOf struct {
	stream eventstore.StreamID
	key    string
}

type known struct {
	hash   eventstore.Hash
	place  eventstore.Place
	answer json.RawMessage
}

func newMemlog() *memlog {
	return &memlog{
		streams: map[eventstore.StreamID][]int{}, keys: map[keyOf]known{},
		snapshots: map[snapshotOf]eventstore.Snapshot{},
	}
}

func (l *memlog) head() eventstore.Position {
	if len(l.commits) == 0 {
		return 0
	}
	return l.commits[len(l.commits)-1].Position
}

func (l *memlog) streamHead(s eventstore.StreamID) eventstore.Head {
	at := l.streams[s]
	if len(at) == 0 {
		return eventstore.Head{}
	}
	c := l.commits[at[len(at)-1]]
	return eventstore.Head{Version: c.Version, Position: c.Position}
}

func (l *memlog) Append(_ context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	if l.before != nil {
		if err := l.before(u); err != nil {
			return eventstore.Appended{}, err
		}
	}
	placed, err := l.append(u)
	if err == nil && l.after != nil {
		err = l.after(u)
	}
	return placed, err
}

func (l *memlog) append(u eventstore.Unit) (eventstore.Appended, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appends++
	var firsts []eventstore.First
	for i, c := range u.Commands {
		if k, ok := l.keys[keyOf{u.Stream, c.Key}]; ok {
			first := eventstore.First{Index: i, Place: k.place, Answer: k.answer}
			if k.hash != c.Hash {
				first = eventstore.First{Index: i, Reused: true}
			}
			firsts = append(firsts, first)
		}
	}
	if len(firsts) > 0 {
		return eventstore.Appended{}, &eventstore.KnownKeysError{Stream: u.Stream, Known: firsts}
	}
	version := l.streamHead(u.Stream).Version
	if version != u.Expected {
		return eventstore.Appended{}, &eventstore.ConflictError{Stream: u.Stream, Expected: u.Expected, Actual: version}
	}
	var placed eventstore.Appended
	var batch []eventstore.Commit
	var position eventstore.Position
	for _, c := range u.Commands {
		if len(c.Events) > 0 {
			version += eventstore.Version(len(c.Events))
			position = l.head() + eventstore.Position(len(c.Events))
			commit := eventstore.Commit{
				Position: position, Stream: u.Stream, Version: version, Key: c.Key, At: c.At, Meta: c.Meta, Events: c.Events,
			}
			l.streams[u.Stream] = append(l.streams[u.Stream], len(l.commits))
			l.commits = append(l.commits, commit)
			batch = append(batch, commit)
		}
		place := eventstore.Place{Version: version, Position: position}
		placed.Commands = append(placed.Commands, place)
		if len(c.Events) > 0 {
			l.keys[keyOf{u.Stream, c.Key}] = known{hash: c.Hash, place: place}
		} else if c.Keep {
			l.keys[keyOf{u.Stream, c.Key}] = known{hash: c.Hash, place: eventstore.Place{Version: version}, answer: c.Answer}
		}
	}
	if len(batch) > 0 {
		for _, notify := range l.listeners {
			notify(l.LogID(), batch)
		}
	}
	return placed, nil
}

func (l *memlog) ReadStream(ctx context.Context, s eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error) {
	if l.reading != nil {
		if err := l.reading(s); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	at := l.streams[s]
	from, _ := slices.BinarySearchFunc(at, after+1, func(i int, v eventstore.Version) int { return cmp.Compare(l.commits[i].Version, v) })
	var commits []eventstore.Commit
	for _, i := range at[from:min(from+limit, len(at))] {
		commits = append(commits, l.commits[i])
	}
	return commits, nil
}

func (l *memlog) Read(_ context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, _ := slices.BinarySearchFunc(l.commits, after+1, func(c eventstore.Commit, p eventstore.Position) int { return cmp.Compare(c.Position, p) })
	return slices.Clone(l.commits[from:min(from+limit, len(l.commits))]), nil
}

func (l *memlog) ReadType(ctx context.Context, typ string, after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error) {
	all, err := l.Read(ctx, after, min(limit, scan))
	upTo := after
	if len(all) > 0 {
		upTo = all[len(all)-1].Position
	}
	return slices.DeleteFunc(all, func(c eventstore.Commit) bool { return c.Stream.Type != typ }), upTo, err
}

func (l *memlog) Head(context.Context) (eventstore.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads++
	return l.head(), nil
}

func (l *memlog) StreamHead(_ context.Context, s eventstore.StreamID) (eventstore.Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streamHead(s), nil
}

func (l *memlog) Load(ctx context.Context, r eventstore.LoadRequest) (loaded eventstore.Loaded, err error) {
	l.mu.Lock()
	snap, ok := l.snapshots[snapshotOf{r.Stream, r.Fingerprint}]
	l.mu.Unlock()
	after := r.After
	if ok {
		loaded.Snapshot, after = &snap, snap.Version
	}
	loaded.Commits, err = l.ReadStream(ctx, r.Stream, after, r.Limit)
	loaded.More = len(loaded.Commits) == r.Limit
	return loaded, err
}

func (l *memlog) SaveSnapshot(_ context.Context, s eventstore.Snapshot) error {
	if l.saving != nil {
		l.saving()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	of := snapshotOf{s.Stream, s.Fingerprint}
	if s.Version > l.snapshots[of].Version {
		l.snapshots[of] = s
	}
	return nil
}

func (l *memlog) LogID() string                      { return "memory" }
func (l *memlog) Witness(string, *eventstore.Commit) {}
func (l *memlog) Check(context.Context) error        { return nil }
func (l *memlog) Close() error                       { return nil }
func (l *memlog) Resume(ctx context.Context) (eventstore.Position, error) {
	return l.Head(ctx)
}

func (l *memlog) counts() (appends, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.appends, l.reads
}

func (l *memlog) headReads() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads
}

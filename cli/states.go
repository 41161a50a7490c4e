package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// maxStates bounds the aggregates whose states a command keeps. The state of another
// is made of its history again.
const maxStates = 10_000

// states makes the public states of aggregates from their events, with the program's
// own aggregates. It is not safe for concurrent use.
type states struct {
	catalog *aggregate.Catalog
	history func(ctx context.Context, stream string) iter.Seq2[line, error] // from the first event on
	known   *lru.Cache[string, *stateAt]
}

// stateAt is the state of an aggregate at a version.
type stateAt struct {
	*aggregate.Definition
	state   any
	version eventstore.Version
}

func newStates(catalog *aggregate.Catalog, history func(context.Context, string) iter.Seq2[line, error]) *states {
	known, err := lru.New[string, *stateAt](maxStates)
	if err != nil {
		panic(err) // the size is positive
	}
	return &states{catalog, history, known}
}

// start returns the state of an aggregate without events.
func (s *states) start(stream string) (*stateAt, error) {
	typ, _, _ := strings.Cut(stream, "/")
	d, ok := s.catalog.Type(typ)
	if !ok {
		return nil, fmt.Errorf("this program has no aggregates of type %q, so it cannot make their states from events: use the program that the node runs", typ)
	}
	return &stateAt{Definition: d, state: d.NewState()}, nil
}

// after returns the public state of an aggregate after an event. It reads the
// history of the aggregate if it does not know the state before the event.
func (s *states) after(ctx context.Context, l line) (json.RawMessage, error) {
	if known, ok := s.known.Get(l.Stream); ok && known.version == l.Version-1 {
		if err := known.apply(l); err != nil {
			return nil, err
		}
		return known.View(known.state)
	}
	made, err := s.start(l.Stream)
	if err != nil {
		return nil, err
	}
	for earlier, err := range s.history(ctx, l.Stream) {
		if err == nil {
			err = made.apply(earlier)
		}
		if err != nil {
			return nil, err
		}
		if earlier.Version == l.Version {
			break
		}
	}
	if made.version != l.Version {
		return nil, fmt.Errorf("the history of %s ends at version %d, before the event of version %d", l.Stream, made.version, l.Version)
	}
	s.known.Add(l.Stream, made)
	return made.View(made.state)
}

// apply makes the next event part of the state. A panic of application code becomes
// an error.
func (s *stateAt) apply(l line) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("event %s of %s at version %d: Apply panicked: %v", l.Event, l.Stream, l.Version, p)
		}
	}()
	form := l.form
	if form == 0 {
		form = s.Form(l.Event)
	}
	event, err := s.DecodeEvent(l.Event, form, l.Data)
	if err != nil {
		return err
	}
	s.Apply(s.state, event)
	s.version = l.Version
	return nil
}

// historyAt returns the function that reads the history of an aggregate from a
// gateway, up to the newest event.
func historyAt(gateway *client.Client) func(context.Context, string) iter.Seq2[line, error] {
	return func(ctx context.Context, stream string) iter.Seq2[line, error] {
		return func(yield func(line, error) bool) {
			typ, id, _ := strings.Cut(stream, "/")
			events := gateway.Aggregate(typ, id).Follow(client.FromStart())
			defer events.Close()
			for item, err := range events.Items(ctx) {
				switch {
				case err != nil:
					yield(line{}, err)
					return
				case item.Kind == client.KindLive:
					return
				case item.Kind == client.KindEvent && !yield(lineOf(item.Event), nil):
					return
				}
			}
		}
	}
}

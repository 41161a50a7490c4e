package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
)

const (
	// countTime bounds the count of the events that a rebuild handles, and mendTime the
	// retry or the skip of a sequence, whose later events are then folded.
	countTime, mendTime = time.Minute, 2 * time.Minute
)

// readArgs are the arguments of the actions on the read side.
type readArgs struct {
	Name     string              `json:"name"`     // of a projection, process manager, group or relay
	Key      string              `json:"key"`      // of a row, a sequence, a target, or an aggregate
	Position eventstore.Position `json:"position"` // of the event to skip, or to rewind to
}

// addReadActions adds what operators can do with the read side, by the operations of the
// command line.
func (n *node) addReadActions(actions map[string]console.Action) {
	type do func(context.Context, readArgs) (string, error)
	add := func(name string, a console.Action, wants string, do do) {
		a.Do = func(ctx context.Context, _ console.User, args json.RawMessage) (string, error) {
			var r readArgs
			if err := json.Unmarshal(args, &r); len(args) > 0 && err != nil {
				return "", errors.New("the arguments are not the expected JSON object")
			}
			for _, want := range strings.Fields(wants) {
				if want == "name" && r.Name == "" || want == "key" && r.Key == "" || want == "position" && r.Position == 0 {
					return "", errors.New("the argument " + want + " is missing")
				}
			}
			return do(ctx, r)
		}
		actions[name] = a
	}
	processors := func(do func(context.Context, *Processors, readArgs) (string, error)) do {
		return func(ctx context.Context, r readArgs) (string, error) {
			o, err := OperateProcessors(n.store, n.cfg.Catalog)
			if err != nil {
				return "", err
			}
			return do(ctx, o, r)
		}
	}
	groups, wakes, relays := OperateGroups(n.store), OperateWakes(n.store), OperateRelays(n.store)
	for name, paused := range map[string]bool{"pause": true, "resume": false} {
		add("processor_"+name, console.Action{}, "name", processors(func(ctx context.Context, o *Processors, r readArgs) (string, error) {
			return r.Name + ": " + name + "d", o.Pause(ctx, r.Name, paused)
		}))
		add("group_"+name, console.Action{}, "name", func(ctx context.Context, r readArgs) (string, error) {
			return r.Name + ": " + name + "d", groups.Pause(ctx, r.Name, paused)
		})
		add("wakes_"+name, console.Action{}, "", func(ctx context.Context, _ readArgs) (string, error) {
			return "wake-ups: " + name + "d", wakes.Pause(ctx, paused)
		})
	}
	add("processor_dry_run", console.Action{Within: countTime}, "name", processors(func(ctx context.Context, o *Processors, r readArgs) (string, error) {
		events, head, err := o.Handles(ctx, r.Name)
		return fmt.Sprintf("A rebuild handles %s up to position %d, and later ones until it is ready.", counted(int(events), "event"), head), err
	}))
	add("processor_rebuild", console.Action{}, "name", processors(func(ctx context.Context, o *Processors, r readArgs) (string, error) {
		b, err := o.Rebuild(ctx, r.Name)
		return fmt.Sprintf("%s: build %d has begun", r.Name, b.ID), err
	}))
	add("processor_retry", console.Action{Within: mendTime}, "name key", processors(func(ctx context.Context, o *Processors, r readArgs) (string, error) {
		return resumed(r.Name, func(report func(Resumed)) error { return o.Retry(ctx, r.Name, r.Key, report) })
	}))
	add("processor_skip", console.Action{Within: mendTime, NeedsReason: true}, "name key position", processors(func(ctx context.Context, o *Processors, r readArgs) (string, error) {
		return resumed(r.Name, func(report func(Resumed)) error { return o.Skip(ctx, r.Name, r.Key, r.Position, report) })
	}))
	add("group_retry", console.Action{}, "name key", func(ctx context.Context, r readArgs) (string, error) {
		return r.Name + ": " + r.Key + " is retried", groups.Retry(ctx, r.Name, r.Key)
	})
	add("group_skip", console.Action{NeedsReason: true}, "name key position", func(ctx context.Context, r readArgs) (string, error) {
		return fmt.Sprintf("%s: %s continues after position %d", r.Name, r.Key, r.Position), groups.Skip(ctx, r.Name, r.Key, r.Position)
	})
	add("relay_pause", console.Action{}, "name", func(ctx context.Context, r readArgs) (string, error) {
		return r.Name + ": paused", relays.Pause(ctx, r.Name)
	})
	add("relay_resume", console.Action{}, "name", func(ctx context.Context, r readArgs) (string, error) {
		return r.Name + ": resumed", relays.Resume(ctx, r.Name)
	})
	add("relay_rewind", console.Action{NeedsReason: true}, "name", func(ctx context.Context, r readArgs) (string, error) {
		at, err := relays.Rewind(ctx, r.Name, r.Position)
		return fmt.Sprintf("%s: begins after position %d", r.Name, at), err
	})
	add("relay_skip", console.Action{NeedsReason: true}, "name position", func(ctx context.Context, r readArgs) (string, error) {
		return fmt.Sprintf("%s: the event at position %d is skipped", r.Name, r.Position), relays.Skip(ctx, r.Name, r.Position)
	})
	add("wake_retry", console.Action{}, "key", func(ctx context.Context, r readArgs) (string, error) {
		due, err := wakes.Retry(ctx, r.Key)
		return counted(due, "wake-up") + " now due", err
	})
}

// resumed says what a retry or a skip has done. The error says that it still waits.
func resumed(name string, do func(report func(Resumed)) error) (string, error) {
	var done, waits []string
	err := do(func(r Resumed) {
		if r.Command != "" {
			done = append(done, r.Key+" is no longer held by the command "+r.Command)
		} else {
			done = append(done, fmt.Sprintf("%s in build %d shows %s that waited", r.Key, r.Build, counted(r.Events, "event")))
		}
		for _, b := range r.Blocks {
			waits = append(waits, fmt.Sprintf("%s in build %d waits at position %d: %s", b.Key, r.Build, b.Position, b.Error))
		}
	})
	switch {
	case err != nil:
		return "", err
	case len(waits) > 0:
		return "", errors.New(strings.Join(waits, "; "))
	case len(done) == 0:
		return name + ": another operator was faster", nil
	}
	return strings.Join(done, "; "), nil
}

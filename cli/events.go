package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type eventsCmd struct {
	gatewayFlags                    // to read from a gateway
	Store, StorePasswordFile string // to read from the log
	Stream, Category         string
	All                      bool
	After                    *uint64 // nil if not set
	Cursor                   string
	Follow, WithState        bool

	catalog *aggregate.Catalog // to make states
}

// pageCommits is the maximum number of commits that one read of the log returns.
const pageCommits = 1000

func eventsCommand(p *program) *cobra.Command {
	c := eventsCmd{catalog: p.catalog}
	var after uint64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print events, from a gateway or from the log",
		Long: `Print events, from a gateway or from the log, one JSON object per line.

A gateway prints only what the client of --token may read. --all asks for every type of aggregate:
history in the order of the log, then new events as they arrive.
With --with-state, this program makes the state after each event from the events before it.`,
		Example: `  ganglion events --stream auction/42 --after 17 --url http://n1:8080
  ganglion events --category auction --cursor 0 --follow
  ganglion events --all --follow --with-state
  ganglion events --store postgres://ganglion@db/ganglion`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("after") {
				c.After = &after
			}
			return c.run(cmd.Context(), encoder(cmd.OutOrStdout()), p.logger())
		},
	}
	f := cmd.Flags()
	c.gatewayFlags.addTo(f)
	fromEnvironment(f)
	f.StringVar(&c.Store, "store", "", "log to read instead of asking a gateway: a postgres:// `URL`, or the folder of an embedded log")
	f.StringVar(&c.StorePasswordFile, "store-password-file", "", "`FILE` with the database's password")
	f.StringVar(&c.Stream, "stream", "", "only events of the aggregate `TYPE/ID`, such as auction/42")
	f.StringVar(&c.Category, "category", "", "only events of this aggregate `TYPE`")
	f.BoolVar(&c.All, "all", false, "events of all aggregates")
	f.Uint64Var(&after, "after", 0, "start after this `VERSION` of --stream; 0 is the beginning")
	f.StringVar(&c.Cursor, "cursor", "", "start after this `CURSOR` or position; 0 is the beginning")
	f.BoolVar(&c.Follow, "follow", false, "continue with new events")
	f.BoolVar(&c.WithState, "with-state", false, "add the public state of the aggregate after each event")
	cmd.MarkFlagsMutuallyExclusive("stream", "category", "all")
	cmd.MarkFlagsMutuallyExclusive("after", "cursor")
	completeFlag(cmd, p, "stream", aggregateTypes)
	completeFlag(cmd, p, "category", categoryNames)
	return cmd
}

func (c eventsCmd) run(ctx context.Context, out *json.Encoder, log *slog.Logger) error {
	if c.After != nil && c.Stream == "" {
		return usagef("--after counts the events of one stream: add --stream, or use --cursor")
	}
	if c.Stream != "" {
		if _, err := eventstore.ParseStreamID(c.Stream); err != nil {
			return usageError{err}
		}
	}
	if c.Category != "" {
		if err := eventstore.ValidateType(c.Category); err != nil {
			return usageError{err}
		}
	}
	if c.Store != "" {
		return c.fromLog(ctx, out, log)
	}
	if c.Stream == "" && c.Category == "" && !c.All {
		return usagef("add --stream, --category or --all to choose the events, or read the whole log with --store")
	}
	return c.fromGateway(ctx, out, log)
}

// line is an event as it is printed: an event frame without its subscription.
type line struct {
	Position eventstore.Position `json:"position"`
	Stream   string              `json:"stream"`
	Version  eventstore.Version  `json:"version"`
	Event    string              `json:"event"`
	Data     json.RawMessage     `json:"data"`
	Time     time.Time           `json:"time"`
	Cause    string              `json:"cause,omitempty"`
	By       string              `json:"by,omitempty"`
	State    json.RawMessage     `json:"state,omitempty"`

	form int // of the data; 0 for the current one, in which a gateway shows it
}

// fromLog prints events of the log.
func (c eventsCmd) fromLog(ctx context.Context, out *json.Encoder, log *slog.Logger) error {
	store, err := storeFlags{Store: c.Store, StorePasswordFile: c.StorePasswordFile}.openToRead(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	var after eventstore.Position
	if c.Cursor != "" {
		n, err := strconv.ParseUint(c.Cursor, 10, 64)
		if err != nil {
			return usagef("--cursor %q is not a position: with --store it is a number", c.Cursor)
		}
		after = eventstore.Position(n)
	}
	var afterVersion eventstore.Version
	if c.After != nil {
		afterVersion = eventstore.Version(*c.After)
	}
	if err := c.checkStart(ctx, store, after, afterVersion); err != nil {
		return err
	}
	states := newStates(c.catalog, historyIn(store))
	for {
		commits, upTo, err := c.page(ctx, store, after, afterVersion)
		if err != nil {
			return err
		}
		for _, commit := range commits {
			for _, l := range linesOf(commit) {
				if l.Position <= after || c.Stream != "" && l.Version <= afterVersion {
					continue
				}
				if err := c.print(ctx, out, states, l); err != nil {
					return err
				}
			}
			if c.Stream != "" {
				afterVersion = commit.Version
			}
		}
		moved := upTo > after || c.Stream != "" && len(commits) > 0
		if c.Stream == "" {
			after = upTo
		}
		if moved {
			continue
		}
		if !c.Follow {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// print prints an event, with the state after it if --with-state is set.
func (c eventsCmd) print(ctx context.Context, out *json.Encoder, states *states, l line) (err error) {
	if c.WithState {
		if l.State, err = states.after(ctx, l); err != nil {
			return err
		}
	}
	return out.Encode(l)
}

// historyIn returns the function that reads the history of an aggregate in a log.
func historyIn(store node.Store) func(context.Context, string) iter.Seq2[line, error] {
	return func(ctx context.Context, stream string) iter.Seq2[line, error] {
		return func(yield func(line, error) bool) {
			id, err := eventstore.ParseStreamID(stream)
			for after := eventstore.Version(0); err == nil; {
				var commits []eventstore.Commit
				if commits, err = store.ReadStream(ctx, id, after, pageCommits); err != nil || len(commits) == 0 {
					break
				}
				for _, commit := range commits {
					for _, l := range linesOf(commit) {
						if !yield(l, nil) {
							return
						}
					}
					after = commit.Version
				}
			}
			if err != nil {
				yield(line{}, err)
			}
		}
	}
}

func linesOf(commit eventstore.Commit) []line {
	lines := make([]line, len(commit.Events))
	for i, e := range commit.Events {
		lines[i] = line{
			Position: commit.First() + eventstore.Position(i), Stream: commit.Stream.String(),
			Version: commit.FirstVersion() + eventstore.Version(i), Event: e.Type, Data: e.Data,
			Time: commit.At, Cause: commit.Key, By: commit.Meta.Client, form: max(e.Form, 1),
		}
	}
	return lines
}

// checkStart rejects a start past the end, as a gateway does. Such a cursor belongs
// to another log, or the log lost events.
func (c eventsCmd) checkStart(ctx context.Context, store node.Store, after eventstore.Position, version eventstore.Version) error {
	head, err := store.Head(ctx)
	switch {
	case err != nil:
		return err
	case after > head:
		return fmt.Errorf("--cursor %d is past the head of the log, %d", after, head)
	case version == 0:
		return nil
	}
	s, err := eventstore.ParseStreamID(c.Stream)
	if err != nil {
		return err
	}
	newest, err := store.StreamHead(ctx, s)
	if err == nil && version > newest.Version {
		err = fmt.Errorf("--after %d is past the newest version of %s, %d", version, s, newest.Version)
	}
	return err
}

func (c eventsCmd) page(ctx context.Context, store node.Store, after eventstore.Position, version eventstore.Version) ([]eventstore.Commit, eventstore.Position, error) {
	switch {
	case c.Stream != "":
		s, err := eventstore.ParseStreamID(c.Stream)
		if err != nil {
			return nil, after, err
		}
		commits, err := store.ReadStream(ctx, s, version, pageCommits)
		return commits, after, err
	case c.Category != "":
		return store.ReadType(ctx, c.Category, after, pageCommits, 100*pageCommits)
	default:
		commits, err := store.Read(ctx, after, pageCommits)
		if n := len(commits); n > 0 {
			after = commits[n-1].Position
		}
		return commits, after, err
	}
}

// fromGateway prints events of subscriptions.
func (c eventsCmd) fromGateway(ctx context.Context, out *json.Encoder, log *slog.Logger) error {
	types, err := c.types(ctx)
	if err != nil {
		return err
	}
	return c.connect(ctx, log, c.Follow, func(asking context.Context, gateway *client.Client, start func()) error {
		subs := c.subscribe(gateway, types)
		defer func() {
			for _, s := range subs {
				s.Close()
			}
		}()
		start()
		states := newStates(c.catalog, historyAt(gateway))
		for l, err := range merge(asking, subs, c.Follow, log) {
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = c.print(asking, out, states, l)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// types returns the types of aggregates whose categories the command reads.
func (c eventsCmd) types(ctx context.Context) ([]string, error) {
	if !c.All {
		return []string{c.Category}, nil
	}
	doc, err := fetchAny(ctx, c.URLs)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(doc.Aggregates)), nil
}

// subscribe subscribes to the stream or to the categories that the flags select.
func (c eventsCmd) subscribe(gateway *client.Client, types []string) []*subscription {
	from := client.FromStart()
	switch {
	case c.After != nil:
		from = client.FromVersion(*c.After)
	case c.Cursor != "":
		from = client.FromCursor(c.Cursor)
	}
	if c.Stream != "" {
		typ, id, _ := strings.Cut(c.Stream, "/")
		return []*subscription{gateway.Aggregate(typ, id).Follow(from)}
	}
	var all []*subscription
	for _, typ := range types {
		all = append(all, gateway.Category(typ).Follow(from))
	}
	return all
}

func lineOf(e client.Event[json.RawMessage]) line {
	return line{
		Position: eventstore.Position(e.Position), Stream: e.Stream, Version: eventstore.Version(e.Version),
		Event: e.Name, Data: e.Data, Time: e.Time, Cause: e.Cause, By: e.By,
	}
}

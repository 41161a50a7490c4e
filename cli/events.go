package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type eventsCmd struct {
	URL, Token               string // to read from a gateway
	Store, StorePasswordFile string // to read from the log
	Stream, Category         string
	After                    *uint64 // nil if not set
	Cursor                   string
	Follow                   bool
}

// pageCommits is the maximum number of commits that one read of the log returns.
const pageCommits = 1000

func eventsCommand(p *program) *cobra.Command {
	var c eventsCmd
	var after uint64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print events, from a gateway or from the log",
		Long:  "Print events, from a gateway or from the log, one JSON object per line.",
		Example: `  ganglion events --stream auction/42 --after 17 --url http://n1:8080
  ganglion events --category auction --cursor 0 --follow
  ganglion events --store postgres://ganglion@db/ganglion`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("after") {
				c.After = &after
			}
			return c.run(cmd.Context(), p.logger())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.URL, "url", "http://127.0.0.1:8080", "`URL` of any gateway of the cluster")
	f.StringVar(&c.Token, "token", "dev:operator", "token for the gateway; dev:NAME in development mode")
	fromEnvironment(f)
	f.StringVar(&c.Store, "store", "", "log to read instead of asking a gateway: a postgres:// `URL`, or the folder of an embedded log")
	f.StringVar(&c.StorePasswordFile, "store-password-file", "", "`FILE` with the database's password")
	f.StringVar(&c.Stream, "stream", "", "only events of the aggregate `TYPE/ID`, such as auction/42")
	f.StringVar(&c.Category, "category", "", "only events of this aggregate `TYPE`")
	f.Uint64Var(&after, "after", 0, "start after this `VERSION` of --stream; 0 is the beginning")
	f.StringVar(&c.Cursor, "cursor", "", "start after this `CURSOR` or position; 0 is the beginning")
	f.BoolVar(&c.Follow, "follow", false, "continue with new events")
	cmd.MarkFlagsMutuallyExclusive("stream", "category")
	cmd.MarkFlagsMutuallyExclusive("after", "cursor")
	return cmd
}

func (c eventsCmd) run(ctx context.Context, log *slog.Logger) error {
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
		return c.fromLog(ctx, log)
	}
	if c.Stream == "" && c.Category == "" {
		return usagef("a gateway serves streams and categories: add --stream or --category, or read the whole log with --store")
	}
	return c.fromGateway(ctx, log)
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
}

// fromLog prints events of the log.
func (c eventsCmd) fromLog(ctx context.Context, log *slog.Logger) error {
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
	out := newPrinter()
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
				if err := out.Encode(l); err != nil {
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

func linesOf(commit eventstore.Commit) []line {
	lines := make([]line, len(commit.Events))
	for i, e := range commit.Events {
		lines[i] = line{
			Position: commit.First() + eventstore.Position(i), Stream: commit.Stream.String(),
			Version: commit.FirstVersion() + eventstore.Version(i), Event: e.Type, Data: e.Data,
			Time: commit.At, Cause: commit.Key, By: commit.Meta.Client,
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

// newPrinter returns an encoder that prints one JSON object per line.
func newPrinter() *json.Encoder {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false) // the output is not a web page
	return out
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

// fromGateway prints events of a subscription.
func (c eventsCmd) fromGateway(ctx context.Context, log *slog.Logger) error {
	base, err := nodeURL(c.URL)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var isServed atomic.Bool          // the gateway has served the subscription
	subscribed := make(chan struct{}) // delays the first hello until it can carry the subscription
	options := client.Options{
		URLs: []string{base + "/v1/ws"},
		OnError: func(e *client.Error) {
			switch {
			case e.Code == client.CodeUnauthenticated, // the command line has no other token
				e.Code == client.CodeNotFound && !isServed.Load(): // later, an older gateway may not know the type
				stop(e)
				return
			}
			log.Warn("the gateway reported an error", "url", base, "err", e.Message)
		},
	}
	if c.Token != "" {
		options.Token = c.tokenAfter(subscribed)
	}
	gateway, err := client.Connect(ctx, options)
	if err != nil {
		return usageError{err}
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := c.watch(reading, gateway, base, log); err != nil {
			stop(err)
		}
	})
	defer watching.Wait()
	defer gateway.Close()
	defer stop(nil)

	events := c.subscribe(gateway)
	defer events.Close()
	close(subscribed)
	out := newPrinter()
	for item, err := range events.Items(reading) {
		var failure *client.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &failure):
			return fmt.Errorf("%s: %s", failure.Code, failure.Message)
		case err != nil:
			return err
		}
		isServed.Store(true)
		switch {
		case item.Kind == client.KindLive && !c.Follow:
			return nil
		case item.Kind == client.KindEvent:
			if err := out.Encode(lineOf(item.Event)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tokenAfter returns a token function that waits for a signal.
func (c eventsCmd) tokenAfter(signal <-chan struct{}) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-signal:
			return c.Token, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// subscribe subscribes to the stream or category that the flags select.
func (c eventsCmd) subscribe(gateway *client.Client) *client.Subscription[json.RawMessage, json.RawMessage] {
	from := client.FromStart()
	switch {
	case c.After != nil:
		from = client.FromVersion(*c.After)
	case c.Cursor != "":
		from = client.FromCursor(c.Cursor)
	}
	if c.Stream != "" {
		typ, id, _ := strings.Cut(c.Stream, "/")
		return gateway.Aggregate(typ, id).Follow(from)
	}
	return gateway.Category(c.Category).Follow(from)
}

// watch logs when the connection to the gateway is lost. It returns an error if
// the command must not wait for the gateway: before the first connection, and
// without --follow.
func (c eventsCmd) watch(ctx context.Context, gateway *client.Client, base string, log *slog.Logger) error {
	logged := false
	for status := range gateway.Statuses(ctx) {
		connected := gateway.Log() != "" // now or earlier, even if watch missed that status
		switch {
		case status == client.Live || status == client.CatchingUp:
			logged = false
		case status == client.Offline && !(connected && c.Follow):
			err := gateway.ConnErr()
			if errors.As(err, new(*url.Error)) {
				err = noAnswer(base, err)
			}
			return err
		case status != client.Closed && connected && !logged:
			logged = true
			log.Warn("lost the gateway; reconnecting until it is back", "url", base, "err", gateway.ConnErr())
		}
	}
	return nil
}

func lineOf(e client.Event[json.RawMessage]) line {
	return line{
		Position: eventstore.Position(e.Position), Stream: e.Stream, Version: eventstore.Version(e.Version),
		Event: e.Name, Data: e.Data, Time: e.Time, Cause: e.Cause, By: e.By,
	}
}

package main

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
	"time"

	"github.com/spf13/cobra"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
)

type eventsCmd struct {
	URL, Token               string // of a gateway
	Store, StorePasswordFile string // of the log itself
	Stream, Category         string
	After                    *uint64 // nil if not given
	Cursor                   string
	Follow                   bool
}

// page is how many commits are read from the log at once.
const page = 1000

func eventsCommand(l *logging) *cobra.Command {
	var c eventsCmd
	var after uint64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show events, from a gateway or from the log itself.",
		Long:  "Show events, from a gateway or from the log itself, as one JSON object a line.",
		Example: `  ganglion events --stream auction/42 --after 17 --url http://n1:8080
  ganglion events --category auction --cursor 0 --follow
  ganglion events --store postgres://ganglion@db/ganglion`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("after") {
				c.After = &after
			}
			return c.run(cmd.Context(), l.logger())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.URL, "url", "http://127.0.0.1:8080", "`URL` of any gateway of the cluster.")
	f.StringVar(&c.Token, "token", "dev:operator", "Token for the gateway; dev:NAME for one in development mode.")
	fromEnvironment(f)
	f.StringVar(&c.Store, "store", "", "Read the log itself: a postgres:// `URL`, or the folder of an embedded one.")
	f.StringVar(&c.StorePasswordFile, "store-password-file", "", "`FILE` with the database's password.")
	f.StringVar(&c.Stream, "stream", "", "Only events of the aggregate `TYPE/ID`, such as auction/42.")
	f.StringVar(&c.Category, "category", "", "Only events of this `TYPE` of aggregate.")
	f.Uint64Var(&after, "after", 0, "With --stream: start after this `VERSION`; 0 is the beginning.")
	f.StringVar(&c.Cursor, "cursor", "", "Start after this `CURSOR` or position; 0 is the beginning.")
	f.BoolVar(&c.Follow, "follow", false, "Go on with new events after those that are there.")
	cmd.MarkFlagsMutuallyExclusive("stream", "category")
	cmd.MarkFlagsMutuallyExclusive("after", "cursor")
	return cmd
}

func (c eventsCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.After != nil && c.Stream == "" {
		return usagef("--after counts the events of one stream: give --stream, or --cursor instead")
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
		return usagef("a gateway serves streams and categories: give --stream or --category (--store reads the whole log)")
	}
	return c.fromGateway(ctx, log)
}

// line is how an event is printed, as JSON: an event frame without its
// subscription.
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

// fromLog reads the log itself.
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
			return usagef("--cursor %q is no position: with --store it is a number", c.Cursor)
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
			for i, e := range commit.Events {
				l := line{
					Position: commit.First() + eventstore.Position(i), Stream: commit.Stream.String(),
					Version: commit.FirstVersion() + eventstore.Version(i), Event: e.Type, Data: e.Data,
					Time: commit.At, Cause: commit.Key, By: commit.Meta.Client,
				}
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

// checkStart refuses to begin past the end, as a gateway does: whoever knows
// more than the log looks at another log, or at one that lost something.
func (c eventsCmd) checkStart(ctx context.Context, store node.Store, after eventstore.Position, version eventstore.Version) error {
	head, err := store.Head(ctx)
	switch {
	case err != nil:
		return err
	case after > head:
		return fmt.Errorf("--cursor %d lies past the head of the log, %d", after, head)
	case version == 0:
		return nil
	}
	s, err := eventstore.ParseStreamID(c.Stream)
	if err != nil {
		return err
	}
	newest, err := store.StreamHead(ctx, s)
	if err == nil && version > newest.Version {
		err = fmt.Errorf("--after %d lies past the newest version of %s, %d", version, s, newest.Version)
	}
	return err
}

// newPrinter prints one JSON object a line.
func newPrinter() *json.Encoder {
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false) // this is no web page
	return out
}

func (c eventsCmd) page(ctx context.Context, store node.Store, after eventstore.Position, version eventstore.Version) ([]eventstore.Commit, eventstore.Position, error) {
	switch {
	case c.Stream != "":
		s, err := eventstore.ParseStreamID(c.Stream)
		if err != nil {
			return nil, after, err
		}
		commits, err := store.ReadStream(ctx, s, version, page)
		return commits, after, err
	case c.Category != "":
		return store.ReadType(ctx, c.Category, after, page, 100*page)
	default:
		commits, err := store.Read(ctx, after, page)
		if n := len(commits); n > 0 {
			after = commits[n-1].Position
		}
		return commits, after, err
	}
}

// fromGateway subscribes like any client.
func (c eventsCmd) fromGateway(ctx context.Context, log *slog.Logger) error {
	base, err := nodeURL(c.URL)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	options := client.Options{
		URLs: []string{base + "/v1/ws"},
		OnError: func(e *client.Error) {
			if e.Code == client.CodeUnauthenticated { // there is no other token than that of the command line
				stop(e)
				return
			}
			log.Warn("the gateway", "url", base, "error", e.Message)
		},
	}
	if c.Token != "" {
		options.Token = func(context.Context) (string, error) { return c.Token, nil }
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

	from := client.FromStart()
	switch {
	case c.After != nil:
		from = client.FromVersion(*c.After)
	case c.Cursor != "":
		from = client.FromCursor(c.Cursor)
	}
	var events *client.Subscription[json.RawMessage, json.RawMessage]
	if c.Stream != "" {
		typ, id, _ := strings.Cut(c.Stream, "/")
		events = gateway.Aggregate(typ, id).Follow(from)
	} else {
		events = gateway.Category(c.Category).Follow(from)
	}
	defer events.Close()
	out := newPrinter()
	for item, err := range events.Items(reading) {
		var said *client.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &said):
			return fmt.Errorf("%s: %s", said.Code, said.Message)
		case err != nil:
			return err
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

// watch tells when the gateway is lost. It returns an error when it is not
// worth waiting for: at first, and for whoever does not follow.
func (c eventsCmd) watch(ctx context.Context, gateway *client.Client, base string, log *slog.Logger) error {
	told := false
	for status := range gateway.Statuses(ctx) {
		connected := gateway.Log() != "" // once; that status may have passed unseen
		switch {
		case status == client.Live || status == client.CatchingUp:
			told = false
		case status == client.Offline && !(connected && c.Follow):
			err := gateway.ConnErr()
			if errors.As(err, new(*url.Error)) {
				err = noAnswer(base, err)
			}
			return err
		case status != client.Closed && connected && !told:
			told = true
			log.Warn("lost the gateway, connecting again until it is back", "url", base, "error", gateway.ConnErr())
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

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion"
	"github.com/ganglion-es/ganglion/eventstore"
)

type eventsCmd struct {
	URL               string  `help:"Any gateway of the cluster." default:"http://127.0.0.1:8080" env:"GANGLION_URL" placeholder:"URL"`
	Store             string  `help:"Read the log itself: a postgres:// URL, or the folder of an embedded one." placeholder:"URL"`
	StorePasswordFile string  `help:"File with the database's password." placeholder:"FILE" type:"path"`
	Token             string  `help:"Token for the gateway; dev:NAME for one in development mode." default:"dev:operator" env:"GANGLION_TOKEN"`
	Stream            string  `help:"Only this aggregate's events, such as auction/42." placeholder:"TYPE/ID" xor:"what"`
	Category          string  `help:"Only events of this type of aggregate." placeholder:"TYPE" xor:"what"`
	After             *uint64 `help:"With --stream: start after this version; 0 is the beginning." placeholder:"V" xor:"start"`
	Cursor            string  `help:"Start after this cursor or position; 0 is the beginning." placeholder:"P" xor:"start"`
	Follow            bool    `help:"Go on with new events after those that are there."`
}

// page is how many commits are read from the log at once.
const page = 1000

// retryGateway is how long a follower waits before it connects again.
const retryGateway = time.Second

func (c eventsCmd) Run(ctx context.Context, log *slog.Logger) error {
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
	store, err := storeFlags{Store: c.Store, StorePasswordFile: c.StorePasswordFile}.open(ctx, log)
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
	out := json.NewEncoder(os.Stdout)
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

func (c eventsCmd) page(ctx context.Context, store ganglion.Store, after eventstore.Position, version eventstore.Version) ([]eventstore.Commit, eventstore.Position, error) {
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

// errRefused ends a follower: connecting again would not help.
type errRefused struct{ error }

// fromGateway subscribes like any client. A follower that loses its gateway
// connects again and resumes from the last cursor it saw.
func (c eventsCmd) fromGateway(ctx context.Context, log *slog.Logger) error {
	start := map[string]any{"cursor": "0"}
	switch {
	case c.After != nil:
		start = map[string]any{"after": *c.After}
	case c.Cursor != "":
		start = map[string]any{"cursor": c.Cursor}
	}
	for {
		cursor, err := c.subscribe(ctx, start)
		var refused errRefused
		if err == nil || ctx.Err() != nil || !c.Follow || errors.As(err, &refused) {
			return err
		}
		if cursor != "" {
			start = map[string]any{"cursor": cursor}
		}
		log.Warn("lost the gateway, connecting again", "error", err)
		select {
		case <-time.After(retryGateway):
		case <-ctx.Done():
			return nil
		}
	}
}

// subscribe prints events until the subscription has caught up (or for ever,
// if following) and returns the last cursor it was given.
func (c eventsCmd) subscribe(ctx context.Context, start map[string]any) (cursor string, err error) {
	header := http.Header{"Authorization": {"Bearer " + c.Token}}
	conn, resp, err := websocket.Dial(ctx, strings.TrimSuffix(c.URL, "/")+"/v1/ws",
		&websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}, HTTPHeader: header})
	if err != nil {
		if resp != nil && resp.StatusCode >= 400 && resp.StatusCode < 500 {
			return "", errRefused{fmt.Errorf("%s refuses the connection: %s", c.URL, resp.Status)}
		}
		return "", fmt.Errorf("can't reach %s: %w", c.URL, err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)

	subscribe := map[string]any{"op": "subscribe", "id": "events"}
	if c.Stream != "" {
		subscribe["stream"] = c.Stream
	} else {
		subscribe["category"] = c.Category
	}
	for k, v := range start {
		subscribe[k] = v
	}
	for _, frame := range []map[string]any{{"op": "hello", "id": "hello"}, subscribe} {
		text, err := json.Marshal(frame)
		if err != nil {
			return "", err
		}
		if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
			return "", err
		}
	}
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			return cursor, err
		}
		for frame := range bytes.SplitSeq(message, []byte("\n")) {
			next, done, err := c.frame(frame)
			if next != "" {
				cursor = next
			}
			if err != nil || done {
				return cursor, err
			}
		}
	}
}

// frame handles one frame of the gateway's.
func (c eventsCmd) frame(text []byte) (cursor string, done bool, err error) {
	var f struct {
		Op, Code, Message, Cursor string
		line
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return "", false, fmt.Errorf("%s does not speak ganglion.v1: %w", c.URL, err)
	}
	switch f.Op {
	case "event":
		return strconv.FormatUint(uint64(f.Position), 10), false, json.NewEncoder(os.Stdout).Encode(f.line)
	case "live":
		return f.Cursor, !c.Follow, nil
	case "heartbeat":
		return f.Cursor, false, nil
	case "error", "unsubscribed":
		if f.Code == "busy" || f.Code == "unavailable" {
			return "", false, errors.New(f.Message)
		}
		return "", true, errRefused{fmt.Errorf("%s: %s", f.Code, f.Message)}
	}
	return "", false, nil
}

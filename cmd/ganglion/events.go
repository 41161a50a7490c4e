package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strconv"
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
func (c eventsCmd) checkStart(ctx context.Context, store ganglion.Store, after eventstore.Position, version eventstore.Version) error {
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

// follower is what a subscriber remembers from one connection to the next.
type follower struct {
	base  string         // URL of the gateway
	start map[string]any // where the subscription goes on
	logID string         // of the log that start belongs to; empty: not known yet
	out   *json.Encoder

	// Of the newest connection: whether the gateway said welcome, and how
	// long it asked to stay away when it said goodbye.
	welcome bool
	wait    time.Duration
}

// fromGateway subscribes like any client. A follower that loses its gateway
// connects again and resumes from the last cursor it saw.
func (c eventsCmd) fromGateway(ctx context.Context, log *slog.Logger) error {
	base, err := nodeURL(c.URL)
	if err != nil {
		return err
	}
	f := &follower{base: base, start: map[string]any{"cursor": "0"}, out: newPrinter()}
	switch {
	case c.After != nil:
		f.start = map[string]any{"after": *c.After}
	case c.Cursor != "":
		f.start = map[string]any{"cursor": c.Cursor}
	}
	for {
		err := c.subscribe(ctx, f)
		var refused errRefused
		if err == nil || ctx.Err() != nil || !c.Follow || f.logID == "" || errors.As(err, &refused) {
			return err
		}
		if f.welcome { // else it was said before
			log.Warn("lost the gateway, connecting again until it is back", "url", f.base, "error", err)
		}
		select {
		case <-time.After(max(f.wait, retryGateway)):
		case <-ctx.Done():
			return nil
		}
	}
}

// subscribe prints events until the subscription has caught up (or for ever,
// if following).
func (c eventsCmd) subscribe(ctx context.Context, f *follower) error {
	f.welcome, f.wait = false, 0
	header := http.Header{"Authorization": {"Bearer " + c.Token}}
	conn, resp, err := websocket.Dial(ctx, f.base+"/v1/ws",
		&websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}, HTTPHeader: header})
	if err != nil {
		if resp == nil {
			return noAnswer(f.base, err)
		}
		err := fmt.Errorf("%s refuses the connection: %s: %s", f.base, resp.Status, why(resp))
		if resp.StatusCode < http.StatusInternalServerError {
			return errRefused{err}
		}
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)

	// In one frame, so that the log that the cursor belongs to is compared
	// before anything is resumed.
	subscription := map[string]any{"id": "events"}
	if c.Stream != "" {
		subscription["stream"] = c.Stream
	} else {
		subscription["category"] = c.Category
	}
	maps.Copy(subscription, f.start)
	hello := map[string]any{"op": "hello", "id": "hello", "subscriptions": []any{subscription}}
	if f.logID != "" {
		hello["log"] = f.logID
	}
	text, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
		return err
	}
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			return parted(err)
		}
		for text := range bytes.SplitSeq(message, []byte("\n")) {
			done, err := c.frame(f, text)
			if err != nil || done {
				return err
			}
		}
	}
}

// why is what a gateway says about a handshake that it refuses.
func why(resp *http.Response) string {
	var said struct{ Message string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Message == "" {
		return "is it a gateway of Ganglion?"
	}
	return said.Message
}

// parted says how a connection ended. After a close code of 4000 to 4099 a
// client does not come back.
func parted(err error) error {
	var closed websocket.CloseError
	if !errors.As(err, &closed) {
		return fmt.Errorf("the connection broke: %w", err)
	}
	err = fmt.Errorf("the gateway closed the connection: %s (%d)", closed.Reason, closed.Code)
	if closed.Code >= 4000 && closed.Code < 4100 {
		return errRefused{err}
	}
	return err
}

// frame handles one frame of the gateway's.
func (c eventsCmd) frame(f *follower, text []byte) (done bool, err error) {
	var got struct {
		Op, Code, Message, Cursor, Log string

		Behind        []struct{ Cursor string }
		ReconnectInMS int64 `json:"reconnect_in_ms"`
		line
	}
	if err := json.Unmarshal(text, &got); err != nil {
		return false, errRefused{fmt.Errorf("%s does not speak ganglion.v1: %w", f.base, err)}
	}
	resume := func(cursor string) { f.start = map[string]any{"cursor": cursor} }
	switch got.Op {
	case "welcome":
		f.welcome = true
		if f.logID == "" { // else the answer to the subscription tells whether it is the same
			f.logID = got.Log
		}
	case "event":
		resume(strconv.FormatUint(uint64(got.Position), 10))
		return false, f.out.Encode(got.line)
	case "live":
		resume(got.Cursor)
		return !c.Follow, nil
	case "heartbeat":
		if len(got.Behind) > 0 { // the subscription still catches up: the heartbeat's cursor is not for it
			resume(got.Behind[0].Cursor)
		} else {
			resume(got.Cursor)
		}
	case "goodbye":
		f.wait = time.Duration(got.ReconnectInMS) * time.Millisecond
	case "unsubscribed":
		if got.Cursor != "" {
			resume(got.Cursor)
		}
		fallthrough
	case "error":
		err := fmt.Errorf("%s: %s", got.Code, got.Message)
		switch got.Code {
		case "busy", "unavailable", "timeout":
			return false, err
		}
		return true, errRefused{err}
	}
	return false, nil
}

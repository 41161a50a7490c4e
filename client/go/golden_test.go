package ganglion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// goldens returns the frames that every client library sends and receives.
func goldens(t *testing.T) map[string]struct {
	From  string
	Frame object
} {
	t.Helper()
	all := map[string]struct {
		From  string
		Frame object
	}{}
	files, err := filepath.Glob("../../proto/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden frames: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		g := all["nothing"]
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = g
	}
	return all
}

// TestClientSendsTheGoldenFrames compares all members except the ids, which the
// client chooses.
func TestClientSendsTheGoldenFrames(t *testing.T) {
	t.Parallel()
	frames := goldens(t)
	for name, send := range map[string]func(g *gateway){
		"command": func(g *gateway) {
			f := frames["command"].Frame
			g.client.Aggregate("auction", "42").Start(g.t.Context(), "bid", f["data"], WithKey(f["key"].(string)),
				WithExpect(17), WithTimeout(2*time.Second), WithTrace(f["trace"].(string)))
		},
		"get": func(g *gateway) {
			go func() { _, _ = g.client.Aggregate("auction", "42").Get(g.t.Context(), AtLeast(1051), Strong()) }() // ends with the client
		},
		"subscribe":        func(g *gateway) { g.client.Aggregate("auction", "42").Follow() },
		"subscribe_after":  func(g *gateway) { g.client.Aggregate("auction", "42").Follow(FromVersion(17)) },
		"subscribe_cursor": func(g *gateway) { g.client.Category("auction").Follow(FromCursor("1047")) },
		"subscribe_last":   func(g *gateway) { g.client.Aggregate("auction", "42").Follow(FromLast(10)) },
		"subscribe_state":  func(g *gateway) { g.client.Aggregate("auction", "42").Follow(FromState()) },
		"subscribe_each": func(g *gateway) {
			g.client.Aggregate("auction", "42").Follow(FromCursor("1047"), WithStates())
		},
		"subscribe_only": func(g *gateway) {
			go func() { // ends with the client
				for range g.client.Aggregate("auction", "42").States(g.t.Context()) {
				}
			}()
		},
		"query": func(g *gateway) {
			f := frames["query"].Frame
			opts := []QueryOption{AtLeast(uint64(f["at_least"].(float64)))}
			if ms, ok := f["timeout_ms"].(float64); ok {
				opts = append(opts, WithTimeout(time.Duration(ms)*time.Millisecond))
			}
			if after, ok := f["after"].(string); ok {
				opts = append(opts, AfterPage(after))
			}
			go func() { _, _ = g.client.Query(g.t.Context(), f["query"].(string), f["data"], opts...) }() // ends with the client
		},
		"query_small": func(g *gateway) {
			go func() { _, _ = g.client.Query(g.t.Context(), "open_auctions", nil) }() // ends with the client
		},
		"consume": func(g *gateway) {
			f := frames["consume"].Frame
			g.consume(WithMember(f["member"].(string)), WithWindow(200))
		},
		"consume_small": func(g *gateway) { g.consume(WithMember(frames["consume_small"].Frame["member"].(string))) },
		"ack":           func(g *gateway) { g.deliver(frames).Ack() },
		"park":          func(g *gateway) { g.deliver(frames).Park(frames["park"].Frame["reason"].(string)) },
		"unsubscribe":   func(g *gateway) { g.client.Aggregate("auction", "42").Follow().Close() },
		"ping":          func(g *gateway) { g.client.Wake() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				g := welcomed(t, Options{})
				send(g)
				if name == "ack" {
					time.Sleep(ackDelay)
				}
				said, want := g.last(), maps.Clone(frames[name].Frame)
				if want["id"] != nil {
					want["id"] = said["id"]
				}
				if want["sub"] != nil {
					want["sub"] = said["sub"]
				}
				if !reflect.DeepEqual(said, want) {
					t.Errorf("got %v\nwant %v", said, want)
				}
			})
		})
	}
	t.Run("hello", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			want := frames["hello"].Frame
			fetched := make(chan struct{})
			token := func(context.Context) (string, error) { <-fetched; return want["token"].(string), nil }
			go func() {
				time.Sleep(time.Second) // until both subscriptions exist
				close(fetched)
			}()
			g := open(t, Options{Token: token, Log: want["log"].(string)})
			defer g.client.Aggregate("auction", "42").Follow(FromCursor("1047")).Close()
			defer g.client.Category("auction").Follow(FromCursor("1050")).Close()
			g.accept()
			said := g.last()
			want["id"] = said["id"]
			for i, s := range want["subscriptions"].([]any) {
				s.(object)["id"] = said["subscriptions"].([]any)[i].(object)["id"]
			}
			if !reflect.DeepEqual(said, want) {
				t.Errorf("got %v\nwant %v", said, want)
			}
		})
	})
	t.Run("hello_client", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			said, want := dial(t, Options{}).last(), frames["hello_client"].Frame
			if want["id"] = said["id"]; !reflect.DeepEqual(said, want) {
				t.Errorf("got %v\nwant %v", said, want)
			}
		})
	})
	t.Run("auth", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			want := frames["auth"].Frame
			token := "the previous one"
			g := welcomed(t, Options{Token: func(context.Context) (string, error) {
				now := token
				token = want["token"].(string)
				return now, nil
			}})
			time.Sleep(30 * time.Second)
			g.send(frames["expiring"].Frame)
			said := g.last()
			if want["id"] = said["id"]; !reflect.DeepEqual(said, want) {
				t.Errorf("got %v\nwant %v", said, want)
			}
		})
	})
}

// framesOfQueries are the frames that answer queries and their subscriptions. See
// TestLiveQueryHandlesTheGoldenFrames.
var framesOfQueries = []string{
	"result_query", "state_rows", "state_rows_last", "live_query", "live_query_empty", "update", "update_gone", "keys", "synced", "reset",
}

// framesOfGroups are the frames of consumer groups. See
// TestConsumerHandlesTheGoldenFrames.
var framesOfGroups = []string{
	"consuming", "assigned", "assigned_retried", "event_segment", "revoking", "revoked", "unsubscribed_replaced",
}

// TestClientHandlesEveryGoldenFrame sends each frame to a client with a pending
// command and a subscription.
func TestClientHandlesEveryGoldenFrame(t *testing.T) {
	t.Parallel()
	frames := goldens(t)
	wants := map[string]string{
		"error":               "rejected too_low 0",
		"error_busy":          "sent again",
		"error_conflict":      "conflict  18",
		"error_field":         "reported bad_request",
		"error_timeout":       "sent again",
		"event":               "event 1051, cursor 1051",
		"event_anonymous":     "nothing", // of another subscription
		"expiring":            "nothing", // the client has no token
		"goodbye":             "connecting",
		"heartbeat":           "nothing", // no subscription is live
		"heartbeat_behind":    "cursor 700",
		"live":                "event 1051, live, cursor 1052",
		"live_category":       "event 1051, live, cursor 1052",
		"pong":                "nothing",
		"result":              "18 1051 true",
		"result_get":          "18 1051 false",
		"state":               `state {"item":"lamp"}, cursor 1051`,
		"subscribed":          "nothing",
		"unsubscribed":        "nothing", // the answer to its own request
		"unsubscribed_forced": "forbidden, cursor 1052",
	}
	for name, golden := range frames {
		if golden.From != "gateway" || name == "welcome" || slices.Contains(slices.Concat(framesOfQueries, framesOfGroups), name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				if got, want := handled(t, name, golden.Frame, frames["event"].Frame), wants[name]; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

func sprint(x ...any) string { return strings.TrimSuffix(fmt.Sprintln(x...), "\n") }

// handled describes what the client does with a frame; before is an event that
// precedes a "live".
func handled(t *testing.T, name string, f, before object) string {
	g := welcomed(t, Options{})
	auction := g.client.Aggregate("auction", "42")
	from := FromVersion(17)
	if name == "state" {
		from = FromState()
	}
	sub := auction.Follow(from)
	subscribe := g.last()["id"]
	sending := auction.Start(t.Context(), "bid", nil, WithKey("k"))
	command := g.last()["id"]
	g.send(object{"op": "subscribed", "id": subscribe, "cursor": "1050"})

	// Replace the golden ids with the ids of this client's requests.
	f = maps.Clone(f)
	ids := map[any]any{"8": subscribe, "2": subscribe, "4": command, "6": command}
	for _, member := range []string{"id", "sub"} {
		if mine, ok := ids[f[member]]; ok {
			f[member] = mine
		}
	}
	if behind, ok := f["behind"].([]any); ok {
		f["behind"] = slices.Clone(behind)
		first := maps.Clone(behind[0].(object))
		first["sub"] = subscribe
		f["behind"].([]any)[0] = first
	}
	if f["op"] == "live" {
		before = maps.Clone(before)
		before["sub"] = subscribe
		g.send(before)
	}
	g.send(f)

	switch {
	case f["op"] == "goodbye":
		_ = g.socket.ws.Close(1012, "")
		time.Sleep(1729 * time.Millisecond)
		synctest.Wait()
		if s := g.client.Status(); s != Offline {
			return s.String()
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		return g.client.Status().String()
	case f["op"] == "result":
		r, err := sending.Wait()
		if err != nil {
			return err.Error()
		}
		return sprint(r.Version, r.Position, r.Replayed)
	case f["op"] == "error" && f["id"] != nil && f["retry"] != "no":
		if ms, ok := f["after_ms"].(float64); ok {
			time.Sleep(time.Duration(ms) * time.Millisecond)
			synctest.Wait()
		}
		n := 0
		for _, said := range g.socket.received {
			if said["key"] == "k" {
				n++
			}
		}
		if n == 2 {
			return "sent again"
		}
		return sprint("sent", n, "times")
	case f["op"] == "error" && f["id"] != nil:
		_, err := sending.Wait()
		var e *Error
		if !errors.As(err, &e) {
			return sprint(err)
		}
		return string(e.Code) + " " + e.Reason + " " + sprint(e.Version)
	}
	var did []string
	for {
		now, cancel := context.WithCancel(t.Context())
		cancel()
		item, err := sub.Next(now)
		var e *Error
		switch {
		case errors.As(err, &e):
			did = append(did, string(e.Code))
		case err != nil:
		case item.Kind == KindLive:
			did = append(did, "live")
			continue
		case item.Kind == KindState:
			did = append(did, "state "+string(item.State.Data))
			continue
		default:
			did = append(did, sprint("event", item.Event.Position))
			continue
		}
		break
	}
	if c := sub.Cursor(); c != "" {
		did = append(did, "cursor "+c)
	}
	for _, e := range g.reported {
		did = append(did, "reported "+string(e.Code))
	}
	if did == nil {
		return "nothing"
	}
	return strings.Join(did, ", ")
}

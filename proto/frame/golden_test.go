package frame_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

var update = flag.Bool("update", false, "write the golden frames anew")

const testdata = "../testdata"

// golden is one file of testdata: a frame as it stands on the wire, for every
// client library to read and write.
type golden struct {
	Description string          `json:"description"`
	From        string          `json:"from"` // client or gateway
	Frame       json.RawMessage `json:"frame"`
}

func version(v eventstore.Version) *eventstore.Version { return &v }

var (
	auction42 = eventstore.StreamID{Type: "auction", ID: "42"}
	noon      = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)
)

// frames are the golden frames by the name of their file: at least one of each
// op, each with all of its members.
var frames = map[string]struct {
	description string
	frame       frame.Frame
}{
	"hello": {"Opens a session and resumes two subscriptions in one round trip.", frame.Hello{
		ID: "1", Token: "eyJhbGciOi…", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a",
		Subscriptions: []frame.Subscribe{{ID: "2", Stream: auction42, Cursor: "1047"}, {ID: "3", Category: "auction", Cursor: "1050"}},
	}},
	"hello_client":        {"Opens a session in development, where a client id is taken on trust.", frame.Hello{ID: "1", Client: "ada"}},
	"command":             {"Bids, with everything that a command may say.", frame.Command{ID: "4", Aggregate: auction42, Command: "bid", Data: []byte(`{"amount":12500}`), Key: "0198f6a1-0b1c-7def-8123-456789abcdef", Expect: version(17), TimeoutMS: 2000, Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
	"command_small":       {"Closes an auction: the least that a command says. An id may have any printable characters.", frame.Command{ID: "5", Aggregate: eventstore.StreamID{Type: "auction", ID: `ä "1"`}, Command: "close", Data: []byte(`{}`)}},
	"get":                 {"Asks for the state of an auction that knows of position 1051, compared with the log.", frame.Get{ID: "6", Aggregate: auction42, AtLeast: 1051, Strong: true}},
	"query":               {"Asks a query.", frame.Query{ID: "7", Query: "open-auctions", Data: []byte(`{"limit":10}`), AtLeast: 1051}},
	"subscribe":           {"Subscribes to a stream, from now on.", frame.Subscribe{ID: "8", Stream: auction42}},
	"subscribe_after":     {"Subscribes to the events of a stream after version 17.", frame.Subscribe{ID: "8", Stream: auction42, After: version(17)}},
	"subscribe_cursor":    {"Subscribes to a category from a cursor on.", frame.Subscribe{ID: "8", Category: "auction", Cursor: "1047"}},
	"subscribe_last":      {"Subscribes to a stream, beginning with its newest 10 events.", frame.Subscribe{ID: "8", Stream: auction42, Last: 10}},
	"subscribe_state":     {"Subscribes to a stream, beginning with its state.", frame.Subscribe{ID: "8", Stream: auction42, State: true}},
	"subscribe_query":     {"Subscribes to a query.", frame.Subscribe{ID: "8", Query: "open-auctions"}},
	"unsubscribe":         {"Ends a subscription.", frame.Unsubscribe{ID: "9", Sub: "8"}},
	"auth":                {"Renews the session's token.", frame.Auth{ID: "10", Token: "eyJhbGciOi…"}},
	"ping":                {"Asks for a pong.", frame.Ping{ID: "11"}},
	"welcome":             {"Answers hello.", frame.Welcome{ID: "1", Session: "0198f6a1-0000-7000-8000-000000000001", Client: "ada", Node: "n1", Server: "v0.1.0", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a", Cursor: "1050", HeartbeatMS: 25000, Limits: frame.Limits{FrameBytes: 98304, OpenRequests: 256, Subscriptions: 1000, CommandsPerSecond: 200}}},
	"result":              {"Answers a command, and says that its key had been executed before.", frame.Result{ID: "4", Key: "0198f6a1-0b1c-7def-8123-456789abcdef", Version: 18, Position: 1051, Replayed: true, Data: []byte(`{"placed":true}`)}},
	"result_get":          {"Answers get: data is the aggregate's public state.", frame.Result{ID: "6", Version: 18, Position: 1051, Data: []byte(`{"item":"lamp","top":{"bidder":"ada","amount":12500}}`)}},
	"error":               {"A business rule said no.", frame.Fault{ID: "4", Key: "k", Code: "rejected", Reason: "too_low", Message: "the bid is below the top bid", Retry: "no", Replayed: true}},
	"error_conflict":      {"The stream was not at the expected version.", frame.Fault{ID: "4", Key: "k", Code: "conflict", Message: "auction/42 is at version 18", Retry: "no", Version: version(18)}},
	"error_busy":          {"Not executed; the client may try again in a while.", frame.Fault{ID: "4", Key: "k", Code: "busy", Message: "the aggregate has too much to do", Retry: "later", AfterMS: 200}},
	"error_timeout":       {"The outcome is unknown: the same key again finds it out.", frame.Fault{ID: "4", Key: "k", Code: "timeout", Message: "no answer in time", Retry: "same_key"}},
	"error_field":         {"A member is wrong; without an id, no request is settled.", frame.Fault{Code: "bad_request", Message: "id is missing", Retry: "no", Field: "id"}},
	"subscribed":          {"A subscription has begun.", frame.Subscribed{ID: "8", Cursor: "1050"}},
	"state":               {"The state that a subscription begins with.", frame.State{Sub: "8", Version: 18, Position: 1051, Data: []byte(`{"item":"lamp"}`)}},
	"event":               {"An event of a subscription.", frame.Event{Sub: "8", Stream: auction42, Version: 18, Position: 1051, Event: "bid_placed", Data: []byte(`{"bidder":"ada","amount":12500}`), Time: noon, Cause: "0198f6a1-0b1c-7def-8123-456789abcdef", By: "ada"}},
	"event_anonymous":     {"An event of an aggregate that does not show who caused it; its id needs care.", frame.Event{Sub: `"\`, Stream: eventstore.StreamID{Type: "counter", ID: `ä "1" \`}, Version: 1, Position: 1052, Event: "added", Data: []byte(`{"by":1}`), Time: noon.Truncate(time.Second), Cause: "k"}},
	"live":                {"A stream's subscription has caught up.", frame.Live{Sub: "8", Version: version(18), Cursor: "1052"}},
	"live_category":       {"A category's subscription has caught up.", frame.Live{Sub: "8", Cursor: "1052"}},
	"heartbeat":           {"Everything up to the cursor that matches live subscriptions has been sent.", frame.Heartbeat{Cursor: "1052"}},
	"heartbeat_behind":    {"Two subscriptions still catch up.", frame.Heartbeat{Cursor: "1052", Behind: []frame.Behind{{Sub: "2", Cursor: "700"}, {Sub: "3", Cursor: "0"}}}},
	"unsubscribed":        {"Answers unsubscribe.", frame.Unsubscribed{ID: "9", Sub: "8"}},
	"unsubscribed_forced": {"Comes unasked: access was withdrawn.", frame.Unsubscribed{Sub: "8", Code: "forbidden", Message: "ada may no longer read auction/42", Cursor: "1052"}},
	"pong":                {"Answers ping.", frame.Pong{ID: "11"}},
	"expiring":            {"The session's token is about to expire.", frame.Expiring{InMS: 60000}},
	"goodbye":             {"The gateway is about to close the connection.", frame.Goodbye{Reason: "draining", ReconnectInMS: 1730}},
}

func parse(from string, line []byte) (frame.Frame, error) {
	if from == "client" {
		f, err := frame.ParseRequest(line)
		return f, err
	}
	return frame.ParseAnswer(line)
}

func TestFramesAreWrittenAndReadAsTheGoldenFilesSay(t *testing.T) {
	t.Parallel()
	for name, c := range frames {
		file := filepath.Join(testdata, name+".json")
		from := "gateway"
		if _, ok := c.frame.(frame.Request); ok {
			from = "client"
		}
		line := c.frame.Append(nil)
		if *update {
			writeGolden(t, file, golden{c.description, from, line})
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, g.Frame); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if g.From != from || g.Description != c.description {
			t.Errorf("%s: run the tests with -update", file)
		}
		if !bytes.Equal(line, compact.Bytes()) {
			t.Errorf("%s:\n     wrote %s\nthe file has %s", name, line, compact.Bytes())
		}
		read, err := parse(from, line)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(read, c.frame) {
			t.Errorf("%s:\nread %#v\nwant %#v", name, read, c.frame)
		}
	}
	files, err := filepath.Glob(filepath.Join(testdata, "*.json"))
	if err != nil || len(files) != len(frames) {
		t.Errorf("there are %d golden files and %d golden frames (%v)", len(files), len(frames), err)
	}
}

func writeGolden(t *testing.T, file string, g golden) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(g); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAFrameIsOneLineWhateverItsDataLooksLike(t *testing.T) {
	t.Parallel()
	data := json.RawMessage("{\n  \"a\": [1,\r\n 2],\n  \"b\": \"x\\ny\"\n}")
	for _, f := range []frame.Frame{
		frame.Event{Sub: "s", Stream: auction42, Event: "e\n", Data: data, Cause: "c\n\x01", By: "\u2028\xff"},
		frame.Result{ID: "1", Data: data},
		frame.State{Sub: "s", Data: data},
		frame.Command{ID: "1", Aggregate: auction42, Command: "c", Data: data},
	} {
		line := f.Append(nil)
		if bytes.ContainsAny(line, "\r\n") || !json.Valid(line) {
			t.Errorf("%q is not one line of JSON", line)
		}
		var want, got any
		var again struct{ Data json.RawMessage }
		if err := json.Unmarshal(line, &again); err != nil {
			t.Fatal(err)
		}
		_, _ = json.Unmarshal(data, &want), json.Unmarshal(again.Data, &got)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q changed the data", line)
		}
	}
}

func TestDataSharesNoMemoryThatAppendingChanges(t *testing.T) {
	t.Parallel()
	data := json.RawMessage("{\n}")
	_ = frame.Result{ID: "1", Data: data}.Append(nil)
	if string(data) != "{\n}" {
		t.Errorf("writing a frame changed its data to %q", data)
	}
}

func TestLinesSkipsBlankOnes(t *testing.T) {
	t.Parallel()
	var got []string
	for line := range frame.Lines([]byte("\n{1}\r\n \n{2}\n{3}")) {
		got = append(got, strings.TrimSpace(string(line)))
	}
	if want := []string{"{1}", "{2}", "{3}"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

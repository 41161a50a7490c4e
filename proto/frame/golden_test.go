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

var update = flag.Bool("update", false, "write the golden frames")

const testdata = "../testdata"

// golden is one file of testdata: a frame on the wire, for the tests of every client
// library.
type golden struct {
	Description string          `json:"description"`
	From        string          `json:"from"` // client or gateway
	Frame       json.RawMessage `json:"frame"`
}

func version(v eventstore.Version) *eventstore.Version { return &v }

func position(p eventstore.Position) *eventstore.Position { return &p }

var (
	rows = []frame.Row{
		{Key: "42", Rank: "06O00000000007RK4C8", Position: 1051, Data: []byte(`{"item":"lamp","price":999,"open":true}`)},
		{Key: `ä "1"`, Rank: "06O00000000007T0OEG24C944G", Position: 1047, Data: []byte(`{"item":"desk","price":1000,"open":true}`)},
	}
	auction42 = eventstore.StreamID{Type: "auction", ID: "42"}
	noon      = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)
)

// frames are the golden frames by file name. Together the frames of an op have all of
// its members.
var frames = map[string]struct {
	description string
	frame       frame.Frame
}{
	"hello": {"Opens a session and resumes two subscriptions in one round trip.", frame.Hello{
		ID: "1", Token: "eyJhbGciOi…", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a",
		Subscriptions: []frame.Subscribe{{ID: "2", Stream: auction42, Cursor: "1047"}, {ID: "3", Category: "auction", Cursor: "1050"}},
	}},
	"hello_client":          {"Opens a session in development mode, with a client id instead of a token.", frame.Hello{ID: "1", Client: "ada"}},
	"command":               {"Places a bid, with every member of a command.", frame.Command{ID: "4", Aggregate: auction42, Command: "bid", Data: []byte(`{"amount":12500}`), Key: "0198f6a1-0b1c-7def-8123-456789abcdef", Expect: version(17), TimeoutMS: 2000, Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}},
	"command_small":         {"Closes an auction, with only the required members. An id may have any printable characters.", frame.Command{ID: "5", Aggregate: eventstore.StreamID{Type: "auction", ID: `ä "1"`}, Command: "close", Data: []byte(`{}`)}},
	"get":                   {"Asks for the state of an auction that includes position 1051, compared with the log.", frame.Get{ID: "6", Aggregate: auction42, AtLeast: 1051, Strong: true}},
	"query":                 {"Asks for the second page of a query, with every member.", frame.Query{ID: "7", Query: "open_auctions", Data: []byte(`{"budget":1000}`), AtLeast: 1051, TimeoutMS: 2000, After: "eyJidWlsZCI6M30"}},
	"query_small":           {"Asks for the first page of a query.", frame.Query{ID: "7", Query: "open_auctions", Data: []byte(`{}`)}},
	"subscribe":             {"Subscribes to a stream, beginning with the next event.", frame.Subscribe{ID: "8", Stream: auction42}},
	"subscribe_after":       {"Subscribes to the events of a stream after version 17.", frame.Subscribe{ID: "8", Stream: auction42, After: version(17)}},
	"subscribe_cursor":      {"Subscribes to a category, from a cursor.", frame.Subscribe{ID: "8", Category: "auction", Cursor: "1047"}},
	"subscribe_last":        {"Subscribes to a stream, beginning with its newest 10 events.", frame.Subscribe{ID: "8", Stream: auction42, Last: 10}},
	"subscribe_state":       {"Subscribes to a stream, beginning with its state.", frame.Subscribe{ID: "8", Stream: auction42, State: frame.StateFirst}},
	"subscribe_each":        {"Resumes a stream from a cursor, with the newest state after its events.", frame.Subscribe{ID: "8", Stream: auction42, Cursor: "1047", State: frame.StateEach}},
	"subscribe_only":        {"Subscribes to the states of an aggregate, without its events.", frame.Subscribe{ID: "8", Stream: auction42, State: frame.StateOnly}},
	"subscribe_query":       {"Subscribes to a query, from the cursor of an earlier subscription.", frame.Subscribe{ID: "8", Query: "open_auctions", Data: []byte(`{"budget":1000}`), AtLeast: 1051, Cursor: "AwEAAAAAAAQb"}},
	"unsubscribe":           {"Ends a subscription.", frame.Unsubscribe{ID: "9", Sub: "8"}},
	"consume":               {"Makes the session a member of a consumer group, with every member of the frame.", frame.Consume{ID: "8", Group: "mailer", Member: "0198f6a2-77aa-7b1c-8c1d-0242ac120002", Window: 200}},
	"consume_small":         {"Makes the session a member of a consumer group, with the default window.", frame.Consume{ID: "8", Group: "mailer", Member: "host-1"}},
	"ack":                   {"Acknowledges the events of a segment up to a cursor.", frame.Ack{Sub: "8", Segment: "3", Epoch: 12, Cursor: "1051"}},
	"park":                  {"Sets the stream of an event aside, until an operator retries or skips it.", frame.Park{ID: "12", Sub: "8", Segment: "3", Epoch: 12, Position: 1051, Reason: `smtp: 550 no such "user"`}},
	"auth":                  {"Renews the session's token.", frame.Auth{ID: "10", Token: "eyJhbGciOi…"}},
	"ping":                  {"Asks for a pong.", frame.Ping{ID: "11"}},
	"welcome":               {"Answers hello.", frame.Welcome{ID: "1", Session: "0198f6a1-0000-7000-8000-000000000001", Client: "ada", Node: "n1", Server: "v0.1.0", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a", Cursor: "1050", HeartbeatMS: 25000, Limits: frame.Limits{FrameBytes: 98304, OpenRequests: 256, Subscriptions: 1000, CommandsPerSecond: 200}}},
	"result":                {"Answers a command whose key was executed before.", frame.Result{ID: "4", Key: "0198f6a1-0b1c-7def-8123-456789abcdef", Version: 18, Position: 1051, Replayed: true, Data: []byte(`{"placed":true}`)}},
	"result_get":            {"Answers get: data is the aggregate's public state.", frame.Result{ID: "6", Version: 18, Position: 1051, Data: []byte(`{"item":"lamp","top":{"bidder":"ada","amount":12500}}`)}},
	"result_query":          {"Answers query: data has a page of rows. The query has a next page, and two rows of its projection wait for an operator.", frame.Result{ID: "7", Position: 1051, Data: frame.Page{Rows: rows, Next: "eyJidWlsZCI6M30", Blocked: 2}.Append(nil)}},
	"error":                 {"A business rule forbids the command.", frame.Fault{ID: "4", Key: "k", Code: "rejected", Reason: "too_low", Message: "the bid is below the top bid", Retry: "no", Replayed: true}},
	"error_conflict":        {"The stream was not at the expected version.", frame.Fault{ID: "4", Key: "k", Code: "conflict", Message: "auction/42 is at version 18", Retry: "no", Version: version(18)}},
	"error_busy":            {"The command was not executed; the client may retry after 200 ms.", frame.Fault{ID: "4", Key: "k", Code: "busy", Message: "the aggregate has too much to do", Retry: "later", AfterMS: 200}},
	"error_timeout":         {"The outcome is unknown; sending the command again with the same key returns it.", frame.Fault{ID: "4", Key: "k", Code: "timeout", Message: "no answer in time", Retry: "same_key"}},
	"error_field":           {"A member is wrong. Without an id the error belongs to no request.", frame.Fault{Code: "bad_request", Message: "id is missing", Retry: "no", Field: "id"}},
	"subscribed":            {"A subscription has begun.", frame.Subscribed{ID: "8", Cursor: "1050"}},
	"state":                 {"The public state of an aggregate at a version.", frame.State{Sub: "8", Version: 18, Position: 1051, Data: []byte(`{"item":"lamp"}`)}},
	"state_rows":            {"A page of the state of a query's subscription. Further pages follow.", frame.Rows{Sub: "8", Rows: rows, More: true}},
	"state_rows_last":       {"The last page of the state of a query's subscription.", frame.Rows{Sub: "8", Rows: []frame.Row{}}},
	"update":                {"A row of a query has changed, or is new in the result.", frame.Update{Sub: "8", Key: "42", Rank: rows[0].Rank, Position: 1053, Data: []byte(`{"item":"lamp","price":990,"open":true}`)}},
	"update_gone":           {"A row has left the result of a query.", frame.Update{Sub: "8", Key: "43", Gone: true}},
	"keys":                  {"These rows are in the result of a query; drop the others.", frame.Keys{Sub: "8", Keys: []string{"42", `ä "1"`}}},
	"synced":                {"A batch of updates is complete: apply it, and resume from the cursor. One row of the projection waits for an operator.", frame.Synced{Sub: "8", Cursor: "AwEAAAAAAAQd", Position: 1053, Blocked: 1}},
	"reset":                 {"A new state follows. Show the old rows until its live, except if the reason is access.", frame.Reset{Sub: "8", Reason: frame.ResetRebuilt}},
	"event":                 {"An event of a subscription.", frame.Event{Sub: "8", Stream: auction42, Version: 18, Position: 1051, Event: "bid_placed", Data: []byte(`{"bidder":"ada","amount":12500}`), Time: noon, Cause: "0198f6a1-0b1c-7def-8123-456789abcdef", By: "ada"}},
	"event_anonymous":       {"An event of an aggregate that does not show its cause's client. Its id needs escapes.", frame.Event{Sub: `"\`, Stream: eventstore.StreamID{Type: "counter", ID: `ä "1" \`}, Version: 1, Position: 1052, Event: "added", Data: []byte(`{"by":1}`), Time: noon.Truncate(time.Second), Cause: "k"}},
	"event_segment":         {"An event of a segment of a consumer group.", frame.Event{Sub: "8", Segment: "3", Stream: auction42, Version: 18, Position: 1051, Event: "bid_placed", Data: []byte(`{"bidder":"ada","amount":12500}`), Time: noon, Cause: "0198f6a1-0b1c-7def-8123-456789abcdef", By: "ada"}},
	"consuming":             {"Answers consume.", frame.Consuming{ID: "8", Window: 100, AckWithinMS: 30000}},
	"assigned":              {"Gives the member a segment, whose events after the cursor follow.", frame.Assigned{Sub: "8", Segment: "3", Epoch: 12, Cursor: "1050", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a"}},
	"assigned_retried":      {"Gives the member a stream that an operator retries, as a segment of its own.", frame.Assigned{Sub: "8", Segment: `~auction/ä "1"`, Epoch: 13, Cursor: "700", Log: "0198f6a0-5f7e-7c6e-9d1a-1f1e2d3c4b5a"}},
	"revoking":              {"Asks the member to finish and acknowledge: nothing new of the segment follows.", frame.Revoking{Sub: "8", Segment: "3", Epoch: 12}},
	"revoked":               {"Ends an assignment, or answers an ack whose epoch is over.", frame.Revoked{Sub: "8", Segment: "3", Epoch: 12}},
	"live":                  {"A stream's subscription has caught up.", frame.Live{Sub: "8", Version: version(18), Cursor: "1052"}},
	"live_category":         {"A category's subscription has caught up.", frame.Live{Sub: "8", Cursor: "1052"}},
	"live_query":            {"The state of a query is complete. One row of its projection waits for an operator.", frame.Live{Sub: "8", Cursor: "AwEAAAAAAAQb", Position: position(1051), Blocked: 1}},
	"live_query_empty":      {"The state of a query is complete, and the log has no events.", frame.Live{Sub: "8", Cursor: "AwEA", Position: position(0)}},
	"heartbeat":             {"All events up to the cursor that match live subscriptions have been sent.", frame.Heartbeat{Cursor: "1052"}},
	"heartbeat_behind":      {"Two subscriptions are catching up.", frame.Heartbeat{Cursor: "1052", Behind: []frame.Behind{{Sub: "2", Cursor: "700"}, {Sub: "3", Cursor: "0"}}}},
	"unsubscribed":          {"Answers unsubscribe.", frame.Unsubscribed{ID: "9", Sub: "8"}},
	"unsubscribed_forced":   {"The gateway ended a subscription, because access was withdrawn.", frame.Unsubscribed{Sub: "8", Code: "forbidden", Message: "ada may no longer read auction/42", Cursor: "1052"}},
	"unsubscribed_replaced": {"A newer session took the place of this member of a consumer group. Stay away.", frame.Unsubscribed{Sub: "8", Code: "replaced", Message: "a newer session consumes mailer as member host-1"}},
	"pong":                  {"Answers ping.", frame.Pong{ID: "11"}},
	"expiring":              {"The session's token is about to expire.", frame.Expiring{InMS: 60000}},
	"goodbye":               {"The gateway is about to close the connection.", frame.Goodbye{Reason: "draining", ReconnectInMS: 1730}},
}

func parse(from string, line []byte) (frame.Frame, error) {
	if from == "client" {
		f, err := frame.ParseRequest(line)
		return f, err
	}
	return frame.ParseAnswer(line)
}

func TestFramesMatchTheirGoldenFiles(t *testing.T) {
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
		t.Errorf("got %d golden files and %d golden frames (%v)", len(files), len(frames), err)
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

func TestAppendedFrameIsAlwaysOneLine(t *testing.T) {
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

func TestAppendDoesNotChangeTheData(t *testing.T) {
	t.Parallel()
	data := json.RawMessage("{\n}")
	_ = frame.Result{ID: "1", Data: data}.Append(nil)
	if string(data) != "{\n}" {
		t.Errorf("writing a frame changed its data to %q", data)
	}
}

func TestLinesSkipsBlankLines(t *testing.T) {
	t.Parallel()
	var got []string
	for line := range frame.Lines([]byte("\n{1}\r\n \n{2}\n{3}")) {
		got = append(got, strings.TrimSpace(string(line)))
	}
	if want := []string{"{1}", "{2}", "{3}"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

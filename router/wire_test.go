package router

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/internal/lane"
)

func TestCommandCrossesWireUnchanged(t *testing.T) {
	t.Parallel()
	now, version := time.Now(), eventstore.Version(0)
	want := command.Command{
		Stream: eventstore.StreamID{Type: "auction", ID: "é 42"}, Name: "bid", Data: json.RawMessage(`{"amount":5}`),
		Key: "k", ClientKey: true, Client: "ada", Claims: map[string]any{"sub": "ada", "roles": []any{"x"}}, Session: "s",
		Expect: &version, Deadline: now.Add(3 * time.Second), Attempt: 2, Trace: "00-1-2-3",
	}
	system := want
	system.Key, system.Client, system.System, system.Depth, system.Log = "~wake:7", "~wake", true, 7, "log"
	for _, want := range []command.Command{want, system} {
		msg, f := requestOf(&call{Entry: lane.Entry{Command: want}}, 1, now)
		if f != nil {
			t.Fatal(f)
		}
		got, f := callOf(msg.GetCommand(), now)
		if f != nil {
			t.Fatal(f)
		}
		if !reflect.DeepEqual(got.Command, want) || got.hop != 1 {
			t.Errorf("got %+v\nwant %+v", got.Command, want)
		}
	}
}

func TestAnswerCrossesWireUnchanged(t *testing.T) {
	t.Parallel()
	version := eventstore.Version(9)
	for _, want := range []command.Outcome{
		{Result: command.Result{Key: "k", Version: 3, Position: 1 << 60, Replayed: true, Data: json.RawMessage(`{"a":1}`)}},
		command.Failed(&command.Failure{
			Code: command.CodeConflict, Reason: "r", Message: "m", Retry: command.RetryNo, After: time.Second,
			Version: &version, Field: "f", Key: "k", Replayed: true, Elsewhere: true, Cause: "c",
		}),
	} {
		reply, size := outcomeReply(7, want)
		if size != reply.SizeVT() || reply.GetId() != 7 {
			t.Errorf("reply %d of %d bytes, said to be %d", reply.GetId(), reply.SizeVT(), size)
		}
		if got := outcomeOf(reply); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
}

func TestMalformedReplyLeavesFateUnknown(t *testing.T) {
	t.Parallel()
	for _, reply := range []*peer.Reply{
		{}, {Body: &peer.Reply_State{}}, {Body: &peer.Reply_Failure{}}, {Body: &peer.Reply_Failure{Failure: &peer.Failure{Retry: "perhaps", AfterUs: -5}}},
	} {
		f := outcomeOf(reply).Failure
		if f == nil || f.Code != command.CodeInternal || f.Retry != command.RetrySameKey || f.After < 0 {
			t.Errorf("%v became %+v", reply, f)
		}
	}
}

// malformed returns requests that a stranger or a faulty node might send.
func malformed() map[string]*peer.Request {
	good := func(change func(*peer.Command)) *peer.Request {
		c := &peer.Command{Type: "counter", Id: "1", Name: "add", Data: []byte(`{"by":1}`), Key: "k", Attempt: 1, BudgetUs: 1e6}
		change(c)
		return &peer.Request{Body: &peer.Request_Command{Command: c}}
	}
	long := string(make([]byte, 1000))
	return map[string]*peer.Request{
		"nothing":           {},
		"an empty one":      {Body: &peer.Request_Command{Command: &peer.Command{}}},
		"an empty get":      {Body: &peer.Request_Get{Get: &peer.Get{}}},
		"a bad type":        good(func(c *peer.Command) { c.Type = "Counter!" }),
		"a bad id":          good(func(c *peer.Command) { c.Id = ".." }),
		"a long id":         good(func(c *peer.Command) { c.Id = long }),
		"no name":           good(func(c *peer.Command) { c.Name = "" }),
		"a key not UTF-8":   good(func(c *peer.Command) { c.Key = "\xff" }),
		"a trace not UTF-8": good(func(c *peer.Command) { c.Trace = "\xff" }),
		"no key":            good(func(c *peer.Command) { c.Key = "" }),
		"a long key":        good(func(c *peer.Command) { c.Key = long }),
		"a long client":     good(func(c *peer.Command) { c.Client = long }),
		"a long session":    good(func(c *peer.Command) { c.Session = long }),
		"no attempt":        good(func(c *peer.Command) { c.Attempt = 0 }),
		"mad attempts":      good(func(c *peer.Command) { c.Attempt = 1 << 31 }),
		"bad claims":        good(func(c *peer.Command) { c.Claims = []byte("{") }),
		"claims a list":     good(func(c *peer.Command) { c.Claims = []byte("[1]") }),
		"no end of time":    good(func(c *peer.Command) { c.BudgetUs = 1<<63 - 1 }),
		"no time":           good(func(c *peer.Command) { c.BudgetUs = -1 << 63 }),
		"a reserved key":    good(func(c *peer.Command) { c.Key = "~wake:7" }),
		"a reserved client": good(func(c *peer.Command) { c.Client = "~wake" }),
		"a false mark":      good(func(c *peer.Command) { c.System = true }),
		"mad depth":         good(func(c *peer.Command) { c.Depth = 1 << 31 }),
		"a long log":        good(func(c *peer.Command) { c.Log = long }),
		"endless get":       {Body: &peer.Request_Get{Get: &peer.Get{Type: "counter", Id: "1", BudgetUs: 1 << 62}}},
	}
}

func TestMalformedRequestIsAnsweredWithError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"})
	a := w.nodes["a"]
	stream, err := a.pool.Commands(t.Context(), a.proxy.addr, "")
	if err != nil {
		t.Fatal(err)
	}
	id, names := uint64(0), make(map[uint64]string)
	batch := &peer.Requests{Seen: 1 << 63}
	for name, r := range malformed() {
		id++
		r.Id, r.Seen = id, 1<<63
		names[id] = name
		batch.Items = append(batch.Items, r)
	}
	if err := stream.Send(batch); err != nil {
		t.Fatal(err)
	}
	for len(names) > 0 {
		replies, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, reply := range replies.GetItems() {
			if f := reply.GetFailure(); f == nil || f.GetMessage() == "" {
				t.Errorf("%s was answered with %v, want an error", names[reply.GetId()], reply)
			}
			delete(names, reply.GetId())
		}
	}
	s := w.streamOf("a", "", "a")
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if st := w.nodes["g"].router.Stats(); st.Unknown != 0 {
		t.Errorf("counters: %+v", st)
	}
}

// No request of a peer causes a panic. A request that is accepted can be sent on.
func FuzzRequest(f *testing.F) {
	for _, r := range malformed() {
		b, err := r.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, b []byte) {
		var msg peer.Request
		if msg.UnmarshalVT(b) != nil {
			return
		}
		if g, fail := getOf(msg.GetGet(), now); fail == nil {
			if err := g.Stream.Validate(); err != nil {
				t.Errorf("accepted: %v", err)
			}
		}
		c, fail := callOf(msg.GetCommand(), now)
		if fail != nil {
			if fail.Message == "" || fail.Code != command.CodeBadRequest {
				t.Errorf("refused with %+v", fail)
			}
			return
		}
		if left := c.Command.Deadline.Sub(now); left < 0 || left > maxBudget {
			t.Errorf("a budget of %v", left)
		}
		if err := c.Command.Stream.Validate(); err != nil {
			t.Errorf("accepted: %v", err)
		}
		again, fail := requestOf(c, 1, now)
		if fail != nil {
			t.Fatalf("an accepted command cannot be sent on: %v", fail)
		}
		if _, err := again.MarshalVT(); err != nil {
			t.Fatal(err)
		}
	})
}

// No reply of a peer causes a panic, and each becomes an answer.
func FuzzReply(f *testing.F) {
	for _, out := range []command.Outcome{{Result: command.Result{Key: "k", Data: json.RawMessage("1")}}, command.Failed(command.Busy("full"))} {
		reply, _ := outcomeReply(1, out)
		b, err := reply.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var msg peer.Reply
		if msg.UnmarshalVT(b) != nil {
			return
		}
		_, fail := stateOf(&msg)
		for _, fail := range []*command.Failure{fail, outcomeOf(&msg).Failure} {
			if fail != nil && (fail.Code == "" || fail.Retry == "" || fail.After < 0) {
				t.Errorf("%+v", fail)
			}
		}
		reply, _ := outcomeReply(1, outcomeOf(&msg))
		if _, err := reply.MarshalVT(); err != nil {
			t.Fatal(err)
		}
	})
}

package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

func TestVouchedCommandsPassTheAccessRules(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(func(c *gateway.Config) { c.Limits.CommandsPerSecond = 1 })
	for _, c := range []struct{ who, aggregate, name, want string }{
		{"ada", "counter/a", "add", `result 1 false`},
		{"ada", "counter/a", "add", `result 1 true`}, // no limit of requests
		{"", "counter/a", "add", `unauthenticated no`},
		{"bob", "counter/a", "add", `key_reused no`},
		{"ada", "counter/b", "fail", `rejected no`},
		{"ada", "unicorn/a", "add", `not_found no`},
	} {
		s, err := eventstore.ParseStreamID(c.aggregate)
		if err != nil {
			t.Fatal(err)
		}
		f := frame.Command{Aggregate: s, Command: c.name, Data: json.RawMessage(`{"by":1}`), Key: "k1"}
		var got string
		switch a := n.Execute(t.Context(), f, gateway.Identity{Client: c.who}).(type) {
		case frame.Result:
			got = fmt.Sprint("result ", a.Version, " ", a.Replayed)
		case frame.Fault:
			got = fmt.Sprint(a.Code, " ", a.Retry)
		}
		if got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

func TestCancelledCommandHasAnUnknownFate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	defer close(w.router.release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := frame.Command{Aggregate: eventstore.StreamID{Type: "counter", ID: "w"}, Command: "wait", Data: json.RawMessage(`{}`), Key: "k1", TimeoutMS: 30_000}
	fault, failed := n.Execute(ctx, f, gateway.Identity{Client: "ada"}).(frame.Fault)
	if !failed || fault.Code != command.CodeTimeout || fault.Retry != command.RetrySameKey || fault.Key != "k1" {
		t.Errorf("got %+v", fault)
	}
}

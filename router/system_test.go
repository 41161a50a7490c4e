package router

import (
	"context"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
)

func TestSystemCommandReachesItsOwnerWithItsMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"})
	var got command.Command
	w.nodes["a"].executor.refuse = func(c command.Command) *command.Failure { got = c; return nil }
	c := command.Command{
		Stream: eventstore.StreamID{Type: "counter", ID: "1"}, Name: "add", Data: []byte(`{"by":1}`),
		Key: "~wake:7", Client: "~wake", Depth: 3, Log: "log",
	}
	if o := w.nodes["g"].router.SendSystem(t.Context(), c); o.Failure != nil {
		t.Fatal(o.Failure)
	}
	if !got.System || !got.ClientKey || got.Depth != 3 || got.Log != "log" || got.Client != "~wake" {
		t.Errorf("the owner got %+v", got)
	}
	c.Key = "wake:7"
	if o := w.nodes["g"].router.SendSystem(t.Context(), c); o.Failure == nil || o.Failure.Code != command.CodeBadRequest {
		t.Errorf("a key without ~: %v", o)
	}
	c.Key = "~wake:8"
	ended, end := context.WithCancel(t.Context())
	end()
	if o := w.nodes["g"].router.SendSystem(ended, c); o.Failure != nil && o.Failure.Retry != command.RetrySameKey {
		t.Errorf("the sender has stopped waiting: %v", o.Failure)
	}
}

func TestSystemCommandsWaitForOldMembers(t *testing.T) {
	t.Parallel()
	view := &cluster.View{Members: []cluster.Member{{ID: "a", System: true}, {ID: "old"}}}
	w := newWorld(t, []string{"a"}, func(c *Config) { c.View = func() *cluster.View { return view } })
	o := w.nodes["a"].router.SendSystem(t.Context(), command.Command{
		Stream: eventstore.StreamID{Type: "counter", ID: "1"}, Name: "add", Key: "~wake:7", Client: "~wake",
	})
	if o.Failure == nil || o.Failure.Code != command.CodeUnavailable || o.Failure.Retry != command.RetryLater {
		t.Errorf("got %+v, want unavailable until the member is upgraded", o)
	}
}

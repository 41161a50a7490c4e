package stream

import (
	"fmt"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestEventsReachTheStreamOnceAndInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.commit("auction/42", 2)
	_, stop := w.run(w.config()) // makes the stream
	w.caughtUp()
	stop()
	w.run(w.config())
	w.commit("auction/a.b", 1)
	w.caughtUp()
	list := w.wantOnce(3)
	d := list[1]
	got := fmt.Sprint(d.MessageId, d.ContentType, d.Timestamp.Unix(), string(d.Body))
	if want := fmt.Sprint(w.store.LogID(), "-2", "application/json", 1000, `{"n":1}`); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	delete(d.Headers, "x-stream-offset")
	headers := amqp.Table{
		"event": "bid", "log": w.store.LogID(), "position": int64(2), "prev": int64(1), "stream": "auction/42", "version": int64(2), "form": int32(1),
		"time": "1970-01-01T00:16:40.000005Z", "cause": "k1", "by": "bob", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	if fmt.Sprint(d.Headers) != fmt.Sprint(headers) {
		t.Errorf("the headers are %v, want %v", d.Headers, headers)
	}
}

func TestRewindRepeatsNothingThatTheStreamHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.run(w.config())
	w.commit("auction/1", 5)
	w.caughtUp()
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.commit("auction/1", 1)
	w.caughtUp()
	w.wantOnce(6)
}

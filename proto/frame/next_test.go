package frame_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/frame"
)

func TestBatchIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	event := frame.Event{
		Sub: "8", Segment: "~auction/42", Stream: auction42, Version: 18, Position: 1051, Event: "bid_placed",
		Data: []byte(`{"amount":12500}`), Time: noon, Cause: "k",
	}
	for _, b := range []frame.Batch{
		{Log: "l", AckWithinMS: 30_000},
		{
			Log: "l", AckWithinMS: 1, Segments: []frame.Held{{Segment: "3", Epoch: 12, Cursor: "1050"}, {Segment: "~auction/42", Epoch: 13, Cursor: "7", IsRevoking: true}},
			Revoked: []frame.Revoked{{Segment: "4", Epoch: 11}}, Events: []json.RawMessage{event.Append(nil)},
		},
	} {
		text := b.Append(nil)
		got, err := frame.ParseBatch(text)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
		for _, raw := range got.Events {
			if got, err := frame.ParseBatchEvent(raw); err != nil || !reflect.DeepEqual(got, event) {
				t.Errorf("%s: got %+v, %v", raw, got, err)
			}
		}
	}
	for _, bad := range []string{`{`, `7`, `{"segments":{}}`, `{"segments":[7]}`, `{"segments":[{}]}`, `{"revoked":[{"segment":"3"}]}`} {
		if b, err := frame.ParseBatch([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v", bad, b)
		}
	}
	for _, bad := range []string{`{`, `7`, `{"position":1}`} {
		if e, err := frame.ParseBatchEvent([]byte(bad)); err == nil {
			t.Errorf("%s: got %+v", bad, e)
		}
	}
}

func TestNextHasDefaults(t *testing.T) {
	t.Parallel()
	n, err := frame.ParseNext([]byte(`{"member":"m"}`))
	if err != nil || n.Wait() != 5*time.Second || n.MaxOrDefault() != 100 {
		t.Errorf("got %+v, %v", n, err)
	}
	n, err = frame.ParseNext([]byte(`{"member":"m","wait_ms":0,"max":7,"acks":[{"segment":"3","epoch":12,"cursor":"1051"}]}`))
	if err != nil || n.Wait() != 0 || n.MaxOrDefault() != 7 || !reflect.DeepEqual(n.Acks, []frame.Ack{{Segment: "3", Epoch: 12, Cursor: "1051"}}) {
		t.Errorf("got %+v, %v", n, err)
	}
}

package stomp

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
)

// Terms implements [wire.Wire].
//
// The heads of the versions differ, so that no session gets a message that was made for
// another version: in 1.1 the destination comes first, and in 1.0 an end of line, which
// may stand before every frame.
func (w *Wire) Terms(ref string) wire.Terms {
	w.mu.Lock()
	defer w.mu.Unlock()
	sub := w.refs[ref]
	if sub == nil { // it has ended in the meantime
		sub = &subscription{}
	}
	b := AppendCommand(nil, "MESSAGE")
	if w.version == V10 {
		b = append([]byte{'\n'}, b...)
	}
	if w.version == V11 {
		b = AppendHeader(b, w.version, "destination", sub.destination)
	}
	b = AppendHeader(b, w.version, "subscription", sub.id)
	if w.version != V11 {
		b = AppendHeader(b, w.version, "destination", sub.destination)
	}
	t := wire.Terms{Event: string(b), State: string(b), Part: string(b), Again: string(b) + "redelivered:true\n", Window: sub.window}
	if sub.window > 0 && w.version == V12 { // the position follows
		t.Event += "ack:" + ref + "-"
		t.Again += "ack:" + ref + "-"
	}
	return t
}

// AppendEvent implements [wire.Wire]. The head ends with a header that the event's
// position completes, or with the end of a header.
func (w *Wire) AppendEvent(b []byte, head string, e *history.Entry) []byte {
	if w.hasFilters.Load() && !wants(head, e.Event) {
		return b
	}
	b = append(b, head...)
	if strings.HasSuffix(head, "-") {
		b = append(strconv.AppendUint(b, uint64(e.Position), 10), '\n')
	}
	if w.version == V12 {
		return append(b, e.Other(w.encode)...)
	}
	return append(b, w.encode(e)...)
}

// userQueue is the destination of a user's queue, in a head.
const userQueue = "\ndestination:/user/queue/"

// wants reports whether the subscription with a head gets the events with a name. A
// user's queue has the events of its own name, and events has all.
func wants(head, event string) bool {
	i := strings.Index(head, userQueue)
	if i < 0 {
		return true
	}
	only, _, _ := strings.Cut(head[i+len(userQueue):], "\n")
	return only == allEvents || only == event
}

// encode returns the MESSAGE of an event without its head. All sessions of a gateway
// that speak 1.2 share it.
func (w *Wire) encode(e *history.Entry) []byte {
	var f struct {
		Time, Cause, By string
		Data            json.RawMessage
	}
	tail := append([]byte{'{'}, e.Tail...)
	_ = json.Unmarshal(tail, &f) // the gateway has made it
	b := make([]byte, 0, len(tail)+192)
	b = append(append(append(b, "message-id:"...), w.log...), '-')
	b = append(strconv.AppendUint(b, uint64(e.Position), 10), '\n')
	add := func(name, value string) {
		if value != "" {
			b = AppendHeader(b, w.version, name, value)
		}
	}
	position := history.Cursor(e.Position)
	add("stream", e.Stream.String())
	add("version", strconv.FormatUint(uint64(e.Version), 10))
	add("position", position)
	add("cursor", position)
	add("event", e.Event)
	add("time", f.Time)
	add("cause", f.Cause)
	add("by", f.By)
	if e.Stream.Type == TopicType && e.Event == MessageEvent {
		return appendPublished(b, w.version, f.Data)
	}
	b = append(b, "content-type:application/json\n"...)
	return AppendBody(b, f.Data)
}

// appendPublished appends what publication made of a message to a plain topic.
func appendPublished(b []byte, v Version, data []byte) []byte {
	var f struct {
		Type, Body, Base64 string
		Headers            map[string]string
	}
	_ = json.Unmarshal(data, &f) // the aggregate has checked it
	if f.Type != "" {
		b = AppendHeader(b, v, "content-type", f.Type)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Headers)) {
		if !isReserved(name) {
			b = AppendHeader(b, v, name, f.Headers[name])
		}
	}
	body := []byte(f.Body)
	if f.Base64 != "" {
		body, _ = base64.StdEncoding.DecodeString(f.Base64)
	}
	return AppendBody(b, body)
}

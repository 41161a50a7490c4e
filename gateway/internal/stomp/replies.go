package stomp

import (
	"encoding/json"
	"strconv"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// isJSON reports whether a body is JSON.
func isJSON(body []byte) bool { return json.Valid(body) }

// Frame implements [wire.Wire].
func (w *Wire) Frame(f frame.Frame) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.appendFrame(nil, f)
	if w.leaving != nil && len(w.pending) == 0 && !w.isOver {
		b = w.appendReceipt(b, w.leaving.receipt)
		w.isOver = true
	}
	return b
}

// appendFrame appends what the client gets of a frame. The caller holds w.mu.
func (w *Wire) appendFrame(b []byte, f frame.Frame) []byte {
	switch f := f.(type) {
	case frame.Welcome:
		w.take(f.ID)
		return w.appendConnected(b, f)
	case frame.Result:
		return w.appendResult(b, f, w.take(f.ID))
	case frame.Fault:
		return w.appendFault(b, f, w.take(f.ID))
	case frame.Subscribed:
		if p := w.take(f.ID); p != nil {
			return w.appendReceipt(b, p.receipt, Header{"cursor", f.Cursor})
		}
	case frame.Pong:
		switch p := w.take(f.ID); {
		case p == nil:
		case p.isLast:
			w.leaving = p
		default:
			return w.appendReceipt(b, p.receipt)
		}
	case frame.State:
		if sub := w.refs[f.Sub]; sub != nil {
			version, position := strconv.FormatUint(uint64(f.Version), 10), history.Cursor(f.Position)
			return w.appendMessage(b, sub.id, sub.destination, f.Data, Header{"event", "state"}, Header{"version", version}, Header{"position", position})
		}
	case frame.Unsubscribed:
		if p := w.take(f.ID); p != nil {
			return w.appendReceipt(b, p.receipt)
		}
		if f.ID == "" && !w.hasFailed { // the gateway has ended it
			w.hasFailed = true
			return w.appendError(b, &refusal{failure: ended(f), cursor: f.Cursor})
		}
	case frame.Heartbeat:
		if w.wantsBeats {
			return append(b, '\n')
		}
	case frame.Expiring:
		data := append(strconv.AppendInt([]byte(`{"in_ms":`), f.InMS, 10), '}')
		return w.appendOwn(b, sessionQueue, data, Header{"event", "expiring"})
	}
	return b
}

// ended returns why the gateway has ended a subscription.
func ended(f frame.Unsubscribed) *command.Failure {
	return &command.Failure{Code: f.Code, Message: f.Message, Retry: command.RetryLater}
}

// CloseAfter implements [wire.Wire].
func (w *Wire) CloseAfter(f frame.Frame) (code int, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch f := f.(type) {
	case frame.Fault:
		if w.hasFailed && w.failure != nil {
			r := w.failure
			w.failure = nil
			return r.closeCode(), r.short()
		}
	case frame.Unsubscribed:
		if f.ID == "" {
			r := refusal{failure: ended(f)}
			return r.closeCode(), r.short()
		}
	}
	if w.isOver {
		return 1000, "" // RFC 6455, 7.4.1: normal closure
	}
	return 0, ""
}

// take returns and forgets what was registered for a request. The caller holds w.mu.
func (w *Wire) take(id string) *pending {
	p := w.pending[id]
	delete(w.pending, id)
	if p != nil && p.isSubscribe {
		if w.locating--; w.locating == 0 && w.located != nil {
			close(w.located)
			w.located = nil
		}
	}
	return p
}

func (w *Wire) appendConnected(b []byte, f frame.Welcome) []byte {
	w.client, w.log = f.Client, f.Log
	ms := strconv.FormatInt(f.HeartbeatMS, 10)
	headers := []Header{
		{"version", w.version.String()},
		{"session", f.Session},
		{"server", w.cfg.Server},
		{"heart-beat", ms + "," + ms},
		{"log", f.Log},
		{"cursor", f.Cursor},
	}
	if f.Client != "" {
		headers = append(headers, Header{"user-name", f.Client})
	}
	return AppendFrame(b, w.version, "CONNECTED", nil, headers...)
}

// appendReceipt appends a RECEIPT, if the client asked for one.
func (w *Wire) appendReceipt(b []byte, receipt string, headers ...Header) []byte {
	if receipt == "" {
		return b
	}
	b = AppendHeader(AppendCommand(b, "RECEIPT"), w.version, "receipt-id", receipt)
	for _, h := range headers {
		b = AppendHeader(b, w.version, h.Name, h.Value)
	}
	return AppendBody(b, nil)
}

// appendResult appends the answer of a command, a query or a read of a state, and its
// receipt.
func (w *Wire) appendResult(b []byte, f frame.Result, p *pending) []byte {
	if p == nil {
		return b
	}
	var headers []Header
	if f.Version > 0 {
		headers = append(headers, Header{"version", strconv.FormatUint(uint64(f.Version), 10)})
	}
	if f.Position > 0 {
		headers = append(headers, Header{"position", history.Cursor(f.Position)})
	}
	if f.Key != "" {
		headers = append(headers, Header{"key", f.Key})
	}
	if f.Replayed {
		headers = append(headers, Header{"replayed", "true"})
	}
	switch {
	case p.sub != nil && w.subs[p.sub.id] != p.sub: // UNSUBSCRIBE came before the answer
	case p.sub != nil:
		b = w.appendMessage(b, p.sub.id, p.sub.destination, f.Data, headers...)
	case p.replyTo != "":
		b = w.appendReply(b, p, f.Data, headers)
	case f.Key == "" && f.Data != nil: // the answer of a query
		b = w.appendOwn(b, repliesQueue, f.Data, w.correlated(p, headers)...)
	}
	return w.appendReceipt(b, p.receipt, headers...)
}

// correlated adds the headers by which a client finds the request of an answer.
func (w *Wire) correlated(p *pending, headers []Header) []Header {
	if p.correlation != "" {
		headers = append(headers, Header{"correlation-id", p.correlation})
	}
	return headers
}

// appendReply appends an answer to the destination that a SEND named. A client that has
// not subscribed to it gets it too, with the destination as the subscription.
func (w *Wire) appendReply(b []byte, p *pending, data []byte, headers []Header) []byte {
	id := p.replyTo
	for _, sub := range w.subs {
		if sub.destination == p.replyTo {
			id = sub.id
		}
	}
	return w.appendMessage(b, id, p.replyTo, data, w.correlated(p, headers)...)
}

// appendFault appends the failure of a SEND as a message, and that of another frame as
// an ERROR, after which the session ends.
func (w *Wire) appendFault(b []byte, f frame.Fault, p *pending) []byte {
	if p == nil {
		p = &pending{isSend: true}
	}
	if p.sub != nil && p.isSubscribe {
		w.drop(p.sub)
	}
	if !p.isSend {
		if w.hasFailed {
			return b
		}
		w.hasFailed = true
		w.failure = &refusal{failure: failureOf(f), receipt: p.receipt}
		return w.appendError(b, w.failure)
	}
	var headers []Header
	add := func(name, value string) {
		if value != "" {
			headers = append(headers, Header{name, value})
		}
	}
	add("receipt-id", p.receipt)
	w.addFailure(add, failureOf(f))
	add("key", f.Key)
	if f.Version != nil {
		add("version", strconv.FormatUint(uint64(*f.Version), 10))
	}
	if f.Replayed {
		add("replayed", "true")
	}
	data := frame.AppendString([]byte(`{"code":`), string(f.Code))
	if f.Reason != "" {
		data = frame.AppendString(append(data, `,"reason":`...), f.Reason)
	}
	data = append(frame.AppendString(append(data, `,"message":`...), f.Message), '}')
	if p.replyTo != "" {
		return w.appendReply(b, p, data, headers)
	}
	return w.appendOwn(b, errorsQueue, data, w.correlated(p, headers)...)
}

// appendOwn appends a message of a queue of the connection. A client that has not
// subscribed to the queue gets it too, with the destination as the subscription.
func (w *Wire) appendOwn(b []byte, queue string, data []byte, headers ...Header) []byte {
	destination := "/user/queue/" + queue
	id := destination
	if sub := w.own[queue]; sub != nil {
		id = sub.id
	}
	return w.appendMessage(b, id, destination, data, headers...)
}

// appendMessage appends a MESSAGE that is not an event of the log.
func (w *Wire) appendMessage(b []byte, id, destination string, data []byte, headers ...Header) []byte {
	b = AppendCommand(b, "MESSAGE")
	b = AppendHeader(b, w.version, "subscription", id)
	b = AppendHeader(b, w.version, "destination", destination)
	b = w.appendMessageID(b)
	for _, h := range headers {
		b = AppendHeader(b, w.version, h.Name, h.Value)
	}
	b = append(b, "content-type:application/json\n"...)
	return AppendBody(b, data)
}

// appendMessageID appends the id of a message that is not an event of the log.
func (w *Wire) appendMessageID(b []byte) []byte {
	b = strconv.AppendUint(append(b, "message-id:m-"...), w.messages.Add(1), 10)
	return append(b, '\n')
}

// failureOf turns a fault back into its failure.
func failureOf(f frame.Fault) *command.Failure {
	return &command.Failure{Code: f.Code, Reason: f.Reason, Message: f.Message, Retry: f.Retry, Field: f.Field}
}

// AppendState implements [wire.Wire].
func (w *Wire) AppendState(b []byte, head string, s *history.SharedState) []byte {
	b = w.appendMessageID(append(b, head...))
	b = append(b, "event:state\ncontent-type:application/json\n"...)
	return appendObject(b, s.Tail)
}

// AppendPart implements [wire.Wire]. A part that has a cursor has it as a header too.
func (w *Wire) AppendPart(b []byte, head string, p ask.Part) []byte {
	b = w.appendMessageID(append(b, head...))
	b = append(append(append(b, "event:"...), p.Op...), '\n')
	if p.Op == "live" || p.Op == "synced" {
		var f struct{ Cursor string }
		if err := json.Unmarshal(append([]byte{'{'}, p.Tail...), &f); err == nil && f.Cursor != "" {
			w.mu.Lock()
			b = AppendHeader(b, w.version, "cursor", f.Cursor)
			w.mu.Unlock()
		}
	}
	return appendObject(append(b, "content-type:application/json\n"...), p.Tail)
}

// appendObject ends a frame whose body is a JSON object without its first brace.
func appendObject(b, tail []byte) []byte {
	b = strconv.AppendInt(append(b, "content-length:"...), int64(1+len(tail)), 10)
	b = append(append(b, "\n\n{"...), tail...)
	return append(b, 0)
}

var _ wire.Wire = (*Wire)(nil)

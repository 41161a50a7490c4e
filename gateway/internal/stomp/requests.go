package stomp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// pending is a request whose answer the client waits for, or that DISCONNECT waits for.
type pending struct {
	isSend               bool // its failure is a message, and not an ERROR
	receipt              string
	replyTo, correlation string
	sub                  *subscription // that the answer is for; nil for that of a SEND
	isSubscribe          bool          // sub is one of the session
	isLast               bool          // of DISCONNECT
}

// subscription is a subscription of the client.
type subscription struct {
	id, destination string
	ref             string // of the session's subscription; "" if the session has none
	name            string // of a queue of the connection
	event           string // the only event wanted; "" for all
	window          int    // 0 if the client acknowledges none
	isOne           bool   // an ACK is for one message
}

// handle handles a frame. It returns false if no more frames are handled: with the
// refusal, or without one if the session ends for another reason.
func (w *Wire) handle(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	if w.hasLeft {
		return true, nil
	}
	receipt, _ := f.Get("receipt")
	refuse := func(f *command.Failure) (bool, *refusal) {
		return false, &refusal{failure: f, receipt: receipt}
	}
	isConnect := f.Command == "CONNECT" || f.Command == "STOMP"
	switch {
	case isConnect == w.isConnected && isConnect:
		return refuse(command.BadRequest("", "%s was sent before: send it once", f.Command))
	case isConnect:
		return w.connect(f, h)
	case !w.isConnected:
		return refuse(command.BadRequest("", "%s came before CONNECT: send CONNECT first, with accept-version:1.2", command.Quote(f.Command)))
	}
	if name, ok := f.Get("transaction"); ok && (f.Command == "SEND" || f.Command == "ACK" || f.Command == "NACK") {
		if failure := w.held.add(name, f, h.Limits().FrameBytes); failure != nil {
			return refuse(failure)
		}
		return true, nil
	}
	switch f.Command {
	case "SEND":
		return w.send(f, h)
	case "SUBSCRIBE":
		return w.subscribe(f, h)
	case "UNSUBSCRIBE":
		return w.unsubscribe(f, h)
	case "ACK", "NACK":
		return w.acknowledge(f, h)
	case "BEGIN", "COMMIT", "ABORT":
		return w.transact(f, h)
	case "DISCONNECT":
		w.hasLeft = true
		return w.confirm(h, pending{receipt: receipt, isLast: true})
	}
	return refuse(command.BadRequest("", "there is no frame %s: send CONNECT, SEND, SUBSCRIBE, UNSUBSCRIBE, ACK, NACK, BEGIN, COMMIT, ABORT or DISCONNECT", command.Quote(f.Command)))
}

// ask sends a request to the session, which answers it or has failed. body is its
// members after the op and the id, each with a comma before it.
func (w *Wire) ask(h wire.Handler, op string, body []byte, p pending) (more bool) {
	if !h.Acquire() {
		return false
	}
	id := w.await(&p)
	line := frame.AppendString(append(frame.AppendString([]byte(`{"op":`), op), `,"id":`...), id)
	r, err := frame.ParseRequestWithin(append(append(line, body...), '}'), 0)
	switch {
	case errors.Is(err, frame.ErrNotJSON):
		h.Malformed(&frame.Error{ID: id, Code: command.CodeBadRequest, Field: "data", Message: "the body is not JSON in UTF-8: send a JSON object"})
	case err != nil:
		h.Malformed(err)
	default:
		h.Handle(r)
	}
	return true
}

// await registers what to do with the answer of a request, and returns the request's id.
func (w *Wire) await(p *pending) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	id := strconv.FormatUint(w.requests, 10)
	w.pending[id] = p
	if p.sub != nil {
		w.subs[p.sub.id] = p.sub
	}
	if p.isSubscribe {
		p.sub.ref = id
		w.refs[id] = p.sub
		w.locating++
		if p.sub.event != "" {
			w.hasFilters.Store(true)
		}
	}
	return id
}

// settle waits until the earlier subscriptions have begun: messages of a client's own
// SEND reach a SUBSCRIBE before it, whether or not the client has waited for a receipt.
func (w *Wire) settle(h wire.Handler) (more bool) {
	w.mu.Lock()
	if w.locating == 0 {
		w.mu.Unlock()
		return true
	}
	located := make(chan struct{})
	w.located = located
	w.mu.Unlock()
	select {
	case <-located:
		return true
	case <-h.Done():
		return false
	}
}

// confirm answers a frame that needs no other answer.
func (w *Wire) confirm(h wire.Handler, p pending) (more bool, failure *refusal) {
	if p.receipt == "" && !p.isLast {
		return true, nil
	}
	return w.ask(h, "ping", nil, p), nil
}

// connect says hello.
func (w *Wire) connect(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	versions, ok := f.Get("accept-version")
	if !ok {
		versions = "1.0"
	}
	version, ok := newest(versions)
	if !ok {
		return false, &refusal{failure: command.BadRequest("accept-version", "none of the versions %s is served: accept 1.0, 1.1 or 1.2", command.Quote(versions)), version: true}
	}
	w.isConnected, w.decoder.Version = true, version
	promised, wanted, _ := strings.Cut(get(f, "heart-beat"), ",")
	if ms, err := strconv.ParseUint(strings.TrimSpace(promised), 10, 32); err == nil && ms > 0 {
		if interval := max(time.Duration(ms)*time.Millisecond, w.cfg.Heartbeat); interval < strictBelow {
			w.interval.Store(int64(interval))
		}
	}
	w.mu.Lock()
	w.version, w.wantsBeats = version, strings.Trim(wanted, "0 ") != ""
	w.mu.Unlock()
	var b members
	login, token := get(f, "login"), get(f, "passcode")
	if bearer, ok := strings.CutPrefix(get(f, "Authorization"), "Bearer "); ok {
		b.text("token", bearer)
	} else if w.cfg.TrustsLogin && login != "" && !strings.HasPrefix(token, "dev:") {
		b.text("client", login)
	} else if token != "" {
		b.text("token", token)
	}
	if log := get(f, "log"); log != "" {
		b.text("log", log)
	}
	return w.ask(h, "hello", b, pending{}), nil
}

// newest returns the newest version of a list that is served.
func newest(list string) (v Version, ok bool) {
	for name := range strings.SplitSeq(list, ",") {
		for served := V10; served <= V12; served++ {
			if strings.TrimSpace(name) == served.String() {
				v, ok = max(v, served), true
			}
		}
	}
	return v, ok
}

// send sends a command, asks a query or renews the token.
func (w *Wire) send(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	if !w.settle(h) {
		return false, nil
	}
	p := pending{isSend: true, receipt: get(f, "receipt")}
	to, failed := w.parse(f)
	if failed != nil {
		return false, &refusal{failure: failed, receipt: p.receipt}
	}
	if to.kind != toPlain { // whose subscribers get these headers
		p.replyTo, p.correlation = get(f, "reply-to"), get(f, "correlation-id")
	}
	var b members
	switch to.kind {
	case toCommand:
		b.text("aggregate", to.typ+"/"+to.id)
		b.text("command", to.name)
		failed = b.headers(f, "key", "expect", "timeout-ms", "traceparent")
		b.data(f.Body)
	case toPlain:
		b.text("aggregate", to.typ+"/"+to.id)
		b.text("command", PublishCommand)
		failed = b.headers(f, "key", "timeout-ms", "traceparent")
		b.raw("data", publication(f))
	case toQuery:
		b.text("query", to.name)
		failed = b.headers(f, "at-least", "timeout-ms", "after")
		b.data(f.Body)
	case toAuth:
		b.text("token", string(bytes.ToValidUTF8(f.Body, []byte("?"))))
		return w.ask(h, "auth", b, p), nil
	default:
		failed = command.BadRequest("destination", "nothing can be sent to %s: %s", command.Quote(get(f, "destination")), known)
	}
	if failed != nil {
		return false, &refusal{failure: failed, receipt: p.receipt}
	}
	if to.kind == toQuery {
		return w.ask(h, "query", b, p), nil
	}
	return w.ask(h, "command", b, p), nil
}

// parse parses the destination of a frame.
func (w *Wire) parse(f *Frame) (target, *command.Failure) {
	destination, ok := f.Get("destination")
	if !ok {
		return target{}, command.BadRequest("destination", "%s has no destination: %s", f.Command, known)
	}
	w.mu.Lock()
	client := w.client
	w.mu.Unlock()
	return parseTarget(destination, client, w.cfg.HasType)
}

// publication returns the data of the command that publishes a message: its body, as
// text or in base64, its content type and the sender's own headers.
func publication(f *Frame) []byte {
	var b, own members
	if utf8.Valid(f.Body) && !bytes.ContainsRune(f.Body, 0) {
		b.text("body", string(f.Body))
	} else {
		b.text("base64", base64.StdEncoding.EncodeToString(f.Body))
	}
	if typ := get(f, "content-type"); typ != "" {
		b.text("type", typ)
	}
	for i, header := range f.Headers {
		isFirst := !slices.ContainsFunc(f.Headers[:i], func(h Header) bool { return h.Name == header.Name })
		if isFirst && !isReserved(header.Name) {
			own.text(header.Name, header.Value)
		}
	}
	if len(own) > 0 {
		b.raw("headers", append(append([]byte{'{'}, own[1:]...), '}'))
	}
	return append(append([]byte{'{'}, b[1:]...), '}')
}

// isReserved reports whether a header is not passed on to the subscribers of a plain
// topic, since the gateway reads it or sets it.
func isReserved(name string) bool {
	switch name {
	case "destination", "receipt", "transaction", "content-length", "content-type", "key", "timeout-ms", "traceparent",
		"id", "subscription", "message-id", "ack", "redelivered", "stream", "version", "position", "cursor", "event", "time", "cause", "by":
		return true
	}
	return false
}

// subscribe begins a subscription.
func (w *Wire) subscribe(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	p := pending{receipt: get(f, "receipt")}
	refuse := func(f *command.Failure) (bool, *refusal) {
		return false, &refusal{failure: f, receipt: p.receipt}
	}
	to, failed := w.parse(f)
	if failed != nil {
		return refuse(failed)
	}
	sub := &subscription{destination: get(f, "destination"), event: to.event, name: to.name}
	if failed := w.name(sub, f, h.Limits().Subscriptions); failed != nil {
		return refuse(failed)
	}
	if failed := sub.setAck(f); failed != nil {
		return refuse(failed)
	}
	p.sub, p.isSubscribe = sub, true
	var b members
	switch to.kind {
	case toOwn:
		w.mu.Lock()
		_, isTaken := w.own[to.name]
		if !isTaken {
			w.own[to.name], w.subs[sub.id] = sub, sub
		}
		w.mu.Unlock()
		if isTaken {
			return refuse(command.BadRequest("destination", "there is a subscription to %s: subscribe to it once", sub.destination))
		}
		return w.confirm(h, pending{receipt: p.receipt})
	case toStream, toPlain:
		b.text("stream", to.typ+"/"+to.id)
		failed = b.headers(f, "after", "cursor", "last", "state")
	case toCategory:
		b.text("category", to.typ)
		failed = b.headers(f, "after", "cursor", "last", "state")
	case toLive:
		b.text("query", to.name)
		failed = b.headers(f, "at-least", "cursor")
		if data := get(f, "data"); data != "" {
			b.data([]byte(data))
		}
	case toState:
		p.isSubscribe = false
		b.text("aggregate", to.typ+"/"+to.id)
		return w.ask(h, "get", b, p), nil
	case toQuery:
		p.isSubscribe = false
		b.text("query", to.name)
		if data := get(f, "data"); data != "" {
			b.data([]byte(data))
		}
		return w.ask(h, "query", b, p), nil
	default:
		failed = command.BadRequest("destination", "nothing comes from %s: %s", command.Quote(sub.destination), known)
	}
	if failed != nil {
		return refuse(failed)
	}
	return w.ask(h, "subscribe", b, p), nil
}

// name sets the id of a subscription. In 1.0 it may be missing; the destination then
// is the id.
func (w *Wire) name(sub *subscription, f *Frame, most int) *command.Failure {
	id, ok := f.Get("id")
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok && w.version == V10 {
		id, ok = sub.destination, true
	}
	switch {
	case !ok:
		return command.BadRequest("id", "SUBSCRIBE has no id: give one that no other subscription of the session has")
	case len(w.subs) >= most:
		return command.RateLimited(0, "a session may have %d subscriptions: UNSUBSCRIBE from one first", most)
	case w.subs[id] != nil:
		return command.BadRequest("id", "the id %s is that of another subscription: choose another", command.Quote(id))
	}
	sub.id = id
	return nil
}

// setAck sets the acknowledgement mode of a subscription.
func (sub *subscription) setAck(f *Frame) *command.Failure {
	switch mode := get(f, "ack"); mode {
	case "", "auto":
		return nil
	case "client":
	case "client-individual":
		sub.isOne = true
	default:
		return command.BadRequest("ack", "ack is %s: it is auto, client or client-individual", command.Quote(mode))
	}
	sub.window = Prefetch
	if text, ok := f.Get("prefetch-count"); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxPrefetch {
			return command.BadRequest("prefetch-count", "prefetch-count is %s: give a number from 1 to %d", command.Quote(text), MaxPrefetch)
		}
		sub.window = n
	}
	return nil
}

// unsubscribe ends a subscription.
func (w *Wire) unsubscribe(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	if !w.settle(h) {
		return false, nil
	}
	p := pending{receipt: get(f, "receipt")}
	w.mu.Lock()
	sub := w.find(f)
	if sub != nil {
		w.drop(sub)
	}
	w.mu.Unlock()
	switch {
	case sub == nil:
		return false, &refusal{failure: command.BadRequest("id", "there is no subscription %s", command.Quote(get(f, "id")+get(f, "destination"))), receipt: p.receipt}
	case sub.ref == "":
		return w.confirm(h, p)
	}
	var b members
	b.text("sub", sub.ref)
	return w.ask(h, "unsubscribe", b, p), nil
}

// find returns the subscription that UNSUBSCRIBE names: by its id, in 1.0 perhaps by its
// destination. The caller holds w.mu.
func (w *Wire) find(f *Frame) *subscription {
	if id, ok := f.Get("id"); ok || w.version != V10 {
		return w.subs[id]
	}
	destination := get(f, "destination")
	for _, sub := range w.subs {
		if sub.destination == destination {
			return sub
		}
	}
	return nil
}

// drop forgets a subscription. The caller holds w.mu.
func (w *Wire) drop(sub *subscription) {
	if w.subs[sub.id] == sub {
		delete(w.subs, sub.id)
	}
	if w.own[sub.name] == sub {
		delete(w.own, sub.name)
	}
	delete(w.refs, sub.ref)
}

// acknowledge handles ACK and NACK. A frame for a message that was acknowledged before,
// or whose subscription has ended, changes nothing.
func (w *Wire) acknowledge(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	refs, at, failed := w.acknowledged(f)
	if failed != nil {
		return false, &refusal{failure: failed, receipt: get(f, "receipt")}
	}
	for _, sub := range refs {
		if h.Acknowledge(wire.Ack{Sub: sub.ref, Position: at, IsOne: sub.isOne, IsRefused: f.Command == "NACK"}) {
			break
		}
	}
	return w.confirm(h, pending{receipt: get(f, "receipt")})
}

// acknowledged returns the subscriptions of which an ACK or NACK may be, and the
// position of the message.
func (w *Wire) acknowledged(f *Frame) ([]*subscription, eventstore.Position, *command.Failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := "message-id"
	if w.version == V12 {
		name = "id"
	}
	text, _ := f.Get(name)
	i := strings.LastIndexByte(text, '-')
	at, err := strconv.ParseUint(text[i+1:], 10, 64)
	if i < 0 || err != nil {
		if w.version == V12 {
			return nil, 0, command.BadRequest(name, "%s has the id %s: give the header ack of the message", f.Command, command.Quote(text))
		}
		return nil, 0, command.BadRequest(name, "%s has the message-id %s: give the header message-id of the message", f.Command, command.Quote(text))
	}
	if w.version == V12 {
		if sub := w.refs[text[:i]]; sub != nil {
			return []*subscription{sub}, eventstore.Position(at), nil
		}
		return nil, 0, nil
	}
	if id, ok := f.Get("subscription"); ok {
		if sub := w.subs[id]; sub != nil {
			return []*subscription{sub}, eventstore.Position(at), nil
		}
		return nil, 0, nil
	}
	var all []*subscription // 1.0 names the message only
	for _, sub := range w.refs {
		if sub.window > 0 {
			all = append(all, sub)
		}
	}
	return all, eventstore.Position(at), nil
}

// get returns the value of a header, or "".
func get(f *Frame, name string) string {
	value, _ := f.Get(name)
	return value
}

// members are members of a JSON object, each with a comma before it.
type members []byte

func (b *members) raw(name string, value []byte) {
	*b = append(append(frame.AppendString(append(*b, ','), name), ':'), value...)
}

func (b *members) text(name, value string) { b.raw(name, frame.AppendString(nil, value)) }

// data adds a body as the member data, unless it is empty. A body that is not JSON makes
// the whole request no JSON: a string that is not valid stands for it, so that no text of
// a body can end the member.
func (b *members) data(body []byte) {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
	case !isJSON(body):
		b.raw("data", []byte{'?'})
	default:
		b.raw("data", body)
	}
}

// headers adds headers as members, with _ for -. All but key, traceparent and cursor
// are numbers, except for a state that is no boolean.
func (b *members) headers(f *Frame, names ...string) *command.Failure {
	for _, name := range names {
		value, ok := f.Get(name)
		if !ok {
			continue
		}
		member := strings.ReplaceAll(name, "-", "_")
		switch {
		case name == "key", name == "traceparent", name == "cursor", name == "after" && slices.Contains(names, "at-least"),
			name == "state" && value != "true" && value != "false":
			b.text(member, value)
		case name == "state", isNumber(value) && (value == "0" || value[0] != '0'):
			b.raw(member, []byte(value))
		default:
			return command.BadRequest(name, "%s is %s: give a whole number", name, command.Quote(value))
		}
	}
	return nil
}

package router

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
)

// This file converts commands, gets and answers to messages between nodes, and
// back. Messages from peers are checked like any untrusted input.

// maxBudget bounds the time that a peer may give to a command. Clients are
// limited to 30 seconds.
const maxBudget = 10 * time.Minute

const (
	maxKey  = 64
	maxText = 512 // bytes of a session or a trace
)

// requestOf returns the request to execute a call.
func requestOf(c *call, hop uint32, now time.Time) (*peer.Request, *command.Failure) {
	cmd := &c.Command
	if c.claims == nil && len(cmd.Claims) > 0 {
		claims, err := json.Marshal(cmd.Claims)
		if err != nil {
			return nil, command.BadRequest("claims", "the claims cannot be written as JSON: %v", err)
		}
		c.claims = claims
	}
	if f := checkText(cmd); f != nil {
		return nil, f
	}
	msg := &peer.Command{
		Type: cmd.Stream.Type, Id: cmd.Stream.ID, Name: cmd.Name, Data: cmd.Data,
		Key: cmd.Key, ClientKey: cmd.ClientKey, Client: cmd.Client, Claims: c.claims, Session: cmd.Session,
		BudgetUs: cmd.Deadline.Sub(now).Microseconds(), Attempt: uint32(cmd.Attempt), Trace: cmd.Trace, Hop: hop,
		System: cmd.System, Depth: uint32(cmd.Depth), Log: cmd.Log,
	}
	if cmd.Expect != nil {
		msg.Expect = new(uint64(*cmd.Expect))
	}
	return &peer.Request{Body: &peer.Request_Command{Command: msg}}, nil
}

// checkText returns a failure if a text of the command is not valid UTF-8. Neither JSON
// nor the log can have it.
func checkText(cmd *command.Command) *command.Failure {
	for _, text := range []struct{ name, value string }{
		{"aggregate", cmd.Stream.Type},
		{"aggregate", cmd.Stream.ID},
		{"command", cmd.Name},
		{"key", cmd.Key},
		{"client", cmd.Client},
		{"session", cmd.Session},
		{"trace", cmd.Trace},
		{"log", cmd.Log},
	} {
		if !utf8.ValidString(text.value) {
			return command.BadRequest("", "the command's %s is not valid UTF-8", text.name)
		}
	}
	return nil
}

// callOf returns the call of a peer's request.
func callOf(msg *peer.Command, now time.Time) (*call, *command.Failure) {
	stream, deadline, f := common(msg.GetType(), msg.GetId(), msg.GetBudgetUs(), now)
	if f != nil {
		return nil, f
	}
	switch {
	case msg.GetName() == "" || len(msg.GetName()) > eventstore.MaxIDBytes:
		return nil, command.BadRequest("", "the command's name has %d bytes, 1 to %d are allowed", len(msg.GetName()), eventstore.MaxIDBytes)
	case len(msg.GetKey()) == 0 || len(msg.GetKey()) > maxKey:
		return nil, command.BadRequest("", "the key has %d bytes, 1 to %d are allowed", len(msg.GetKey()), maxKey)
	case len(msg.GetClient()) > eventstore.MaxIDBytes:
		return nil, command.BadRequest("", "the client id has %d bytes, at most %d are allowed", len(msg.GetClient()), eventstore.MaxIDBytes)
	case len(msg.GetSession()) > maxText || len(msg.GetTrace()) > maxText || len(msg.GetLog()) > maxText:
		return nil, command.BadRequest("", "the session, the trace or the log has more than %d bytes", maxText)
	case msg.GetDepth() > command.MaxDepth:
		return nil, command.BadRequest("", "the depth is %d, at most %d is allowed", msg.GetDepth(), command.MaxDepth)
	case msg.GetAttempt() < 1 || msg.GetAttempt() > 100:
		return nil, command.BadRequest("", "the attempt is %d, 1 to 100 is allowed", msg.GetAttempt())
	}
	c := &call{claims: msg.GetClaims(), hop: msg.GetHop()}
	c.Command = command.Command{
		Stream: stream, Name: msg.GetName(), Data: msg.GetData(),
		Key: msg.GetKey(), ClientKey: msg.GetClientKey(), Client: msg.GetClient(), Session: msg.GetSession(),
		Deadline: deadline, Attempt: int(msg.GetAttempt()), Trace: msg.GetTrace(),
		System: msg.GetSystem(), Depth: int(msg.GetDepth()), Log: msg.GetLog(),
	}
	if f := checkText(&c.Command); f != nil {
		return nil, f
	}
	if f := c.Command.CheckReserved(); f != nil {
		return nil, f
	}
	if len(c.claims) > 0 {
		if err := json.Unmarshal(c.claims, &c.Command.Claims); err != nil {
			return nil, command.BadRequest("", "the claims are not a JSON object: %v", err)
		}
	}
	if msg.Expect != nil {
		c.Command.Expect = new(eventstore.Version(msg.GetExpect()))
	}
	return c, nil
}

// getRequest returns the request for an aggregate's state.
func getRequest(g command.Get, hop uint32, now time.Time) (*peer.Request, *command.Failure) {
	if !utf8.ValidString(g.Stream.Type) || !utf8.ValidString(g.Stream.ID) {
		return nil, command.BadRequest("", "the aggregate's name is not valid UTF-8")
	}
	return &peer.Request{Body: &peer.Request_Get{Get: &peer.Get{
		Type: g.Stream.Type, Id: g.Stream.ID, AtLeast: uint64(g.AtLeast), Strong: g.Strong,
		BudgetUs: g.Deadline.Sub(now).Microseconds(), Hop: hop,
	}}}, nil
}

// getOf returns the get of a peer's request.
func getOf(msg *peer.Get, now time.Time) (command.Get, *command.Failure) {
	stream, deadline, f := common(msg.GetType(), msg.GetId(), msg.GetBudgetUs(), now)
	return command.Get{
		Stream: stream, AtLeast: eventstore.Position(msg.GetAtLeast()), Strong: msg.GetStrong(), Deadline: deadline,
	}, f
}

// common checks the members that commands and gets share, and returns the
// stream and the deadline.
func common(typ, id string, budget int64, now time.Time) (eventstore.StreamID, time.Time, *command.Failure) {
	s := eventstore.StreamID{Type: typ, ID: id}
	if err := s.Validate(); err != nil {
		return s, now, command.BadRequest("", "%v", err)
	}
	if budget > maxBudget.Microseconds() {
		return s, now, command.BadRequest("", "the budget is %d µs, at most %v are allowed", budget, maxBudget)
	}
	// A budget of 0 or less becomes a deadline that has passed.
	return s, now.Add(time.Duration(max(0, budget)) * time.Microsecond), nil
}

// outcomeReply returns the reply with the answer to a command, and its size.
func outcomeReply(id uint64, out command.Outcome) (*peer.Reply, int) {
	if out.Failure != nil {
		return failureReply(id, out.Failure)
	}
	res := out.Result
	reply := &peer.Reply{Id: id, Body: &peer.Reply_Result{Result: &peer.Result{
		Key: clean(res.Key), Version: uint64(res.Version), Position: uint64(res.Position), Replayed: res.Replayed, Data: res.Data,
	}}}
	size := reply.SizeVT()
	if size > link.MaxMessage {
		f := command.TooLarge("the command was executed (version %d), but its answer has %d bytes, more than a message between nodes may have: read the state with get", res.Version, size)
		f.Key, f.Replayed = res.Key, res.Replayed
		return failureReply(id, f)
	}
	return reply, size
}

// stateReply returns the reply with the answer to a get, and its size.
func stateReply(id uint64, state command.State, f *command.Failure) (*peer.Reply, int) {
	if f != nil {
		return failureReply(id, f)
	}
	reply := &peer.Reply{Id: id, Body: &peer.Reply_State{State: &peer.State{
		Version: uint64(state.Version), Position: uint64(state.Position), Data: state.Data,
	}}}
	size := reply.SizeVT()
	if size > link.MaxMessage {
		return failureReply(id, command.TooLarge("the state has %d bytes, more than a message between nodes may have", size))
	}
	return reply, size
}

func failureReply(id uint64, f *command.Failure) (*peer.Reply, int) {
	msg := &peer.Failure{
		Code: string(f.Code), Reason: clean(f.Reason), Message: clean(f.Message), Retry: string(f.Retry), AfterUs: f.After.Microseconds(),
		Field: clean(f.Field), Key: clean(f.Key), Replayed: f.Replayed, Elsewhere: f.Elsewhere, Cause: clean(f.Cause),
	}
	if f.Version != nil {
		msg.Version = new(uint64(*f.Version))
	}
	reply := &peer.Reply{Id: id, Body: &peer.Reply_Failure{Failure: msg}}
	return reply, reply.SizeVT()
}

// clean cuts s after 4 KiB and replaces bytes that are not valid UTF-8.
func clean(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "�")
}

// outcomeOf returns the answer to a command from a reply.
func outcomeOf(reply *peer.Reply) command.Outcome {
	switch body := reply.GetBody().(type) {
	case *peer.Reply_Result:
		res := body.Result
		return command.Outcome{Result: command.Result{
			Key: res.GetKey(), Version: eventstore.Version(res.GetVersion()), Position: eventstore.Position(res.GetPosition()),
			Replayed: res.GetReplayed(), Data: res.GetData(),
		}}
	case *peer.Reply_Failure:
		return command.Failed(failureOf(body.Failure))
	}
	return command.Failed(unexpectedReply())
}

// stateOf returns the answer to a get from a reply.
func stateOf(reply *peer.Reply) (command.State, *command.Failure) {
	switch body := reply.GetBody().(type) {
	case *peer.Reply_State:
		s := body.State
		return command.State{
			Version: eventstore.Version(s.GetVersion()), Position: eventstore.Position(s.GetPosition()), Data: s.GetData(),
		}, nil
	case *peer.Reply_Failure:
		return command.State{}, failureOf(body.Failure)
	}
	return command.State{}, unexpectedReply()
}

func failureOf(msg *peer.Failure) *command.Failure {
	f := &command.Failure{
		Code: command.Code(msg.GetCode()), Reason: msg.GetReason(), Message: msg.GetMessage(), Retry: command.Retry(msg.GetRetry()),
		After: time.Duration(min(max(0, msg.GetAfterUs()), maxBudget.Microseconds())) * time.Microsecond,
		Field: msg.GetField(), Key: msg.GetKey(), Replayed: msg.GetReplayed(), Elsewhere: msg.GetElsewhere(), Cause: msg.GetCause(),
	}
	if msg != nil && msg.Version != nil {
		f.Version = new(eventstore.Version(msg.GetVersion()))
	}
	if f.Code == "" {
		f.Code = command.CodeInternal
	}
	switch f.Retry {
	case command.RetryNo, command.RetryLater, command.RetrySameKey:
	default:
		f.Retry = command.RetrySameKey // the one that is always safe
	}
	return f
}

// unexpectedReply is the failure for a reply with a body of the wrong kind.
func unexpectedReply() *command.Failure {
	f := command.Internal(command.RetrySameKey)
	f.Message = "another node sent a reply of the wrong kind"
	return f
}
